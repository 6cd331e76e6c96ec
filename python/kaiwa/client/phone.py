"""Media streams of Twilio: what its side of a phone call sends, without a phone."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from kaiwa import Resampler, g711
from kaiwa.client.messages import SAMPLE_RATE, Audio, Event
from kaiwa.client.wire import Answer, Message, Wire

#: Samples a second of a telephone, and of one of Twilio's messages (20 ms).
RATE = 8_000
PACKET = 160

_NO_PCM = np.zeros(0, np.float32)


class TwilioWire(Wire):
    """JSON in text messages, audio as µ-law at 8 kHz in base64.

    A key or token goes into the start message, as TwiML's `<Parameter name="token">` puts it there.
    Marks are sent back at once: what comes counts as played.
    """

    name = "twilio"
    path = "/telephony/twilio"
    announces = False

    def __init__(self) -> None:
        self._stream = f"MZ{secrets.token_hex(16)}"
        self._call = f"CA{secrets.token_hex(16)}"
        self._down = Resampler(SAMPLE_RATE, RATE, low_delay=True)
        self._up = Resampler(RATE, SAMPLE_RATE, low_delay=True)
        self._waiting = bytearray()
        self._packets = 0
        self._sequence = 0

    def query(self, given: Mapping[str, str]) -> dict[str, str]:
        """None: Twilio sends no query."""
        return {}

    def headers(self, key: str | None) -> dict[str, str]:
        """None: the key is in the start message."""
        return {}

    def hello(self, key: str | None) -> Iterable[Message]:
        """The greeting and the start message."""
        yield json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        form = {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1}
        start = {
            "streamSid": self._stream,
            "accountSid": "AC" + "0" * 32,
            "callSid": self._call,
            "tracks": ["inbound"],
            "mediaFormat": form,
            "customParameters": {} if key is None else {"token": key},
        }
        yield self._event("start", {"start": start})

    def goodbye(self) -> Iterable[Message]:
        """The stop message."""
        stop = {"accountSid": "AC" + "0" * 32, "callSid": self._call}
        yield self._event("stop", {"stop": stop})

    def audio(self, pcm: NDArray[np.float32]) -> list[Message]:
        """A message for every 20 ms."""
        self._waiting += g711.encode(self._down.process(pcm), "mulaw")
        packets: list[Message] = []
        while len(self._waiting) >= PACKET:
            packets.append(self._media(bytes(self._waiting[:PACKET])))
            del self._waiting[:PACKET]
        return packets

    def _media(self, data: bytes) -> str:
        media = {
            "track": "inbound",
            "chunk": str(self._packets + 1),
            "timestamp": str(self._packets * 20),
            "payload": base64.b64encode(data).decode("ascii"),
        }
        self._packets += 1
        return self._event("media", {"media": media})

    def _event(self, event: str, values: Mapping[str, object]) -> str:
        self._sequence += 1
        head = {"event": event, "sequenceNumber": str(self._sequence)}
        return json.dumps({**head, **values, "streamSid": self._stream})

    def read(self, message: Message, at: float) -> list[Event | Answer]:
        """Audio; a mark is sent back."""
        try:
            values = json.loads(message)
            event = values["event"]
            if event == "media":
                payload = binascii.a2b_base64(values["media"]["payload"])
                return [Audio(_NO_PCM, payload, at)]
            if event == "mark":
                mark = {"mark": {"name": str(values["mark"]["name"])}}
                return [Answer((self._event("mark", mark),))]
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        return []

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of a message, a few milliseconds late."""
        return self._up.process(g711.decode(payload, "mulaw"))

    def counter(self) -> Callable[[bytes], int]:
        """Three samples for every byte."""
        return lambda payload: len(payload) * SAMPLE_RATE // RATE

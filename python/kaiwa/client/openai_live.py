"""OpenAI's Live protocol: JSON in text messages, 16-bit PCM at 24 kHz in base64."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from kaiwa.client.messages import Audio, Error, Event, Handshake, Metadata, Text
from kaiwa.client.transport import PcmTransport
from kaiwa.client.wire import Answer, Message, Wire

_NO_PCM = np.zeros(0, np.float32)
_START = {
    "type": "session.start",
    "session": {"model": "gpt-live-1", "audio": {"format": {"type": "audio/pcm", "rate": 24_000}}},
}


class LiveWire(Wire):
    """One session."""

    name = "live"
    path = "/v1/live/sessions"

    def __init__(self) -> None:
        self._audio = PcmTransport()

    def hello(self, key: str | None) -> Iterable[Message]:
        """The start of the session."""
        yield json.dumps(_START)

    def goodbye(self) -> Iterable[Message]:
        """Its end."""
        yield '{"type":"session.close"}'

    def audio(self, pcm: NDArray[np.float32]) -> list[Message]:
        """One message."""
        text = base64.b64encode(self._audio.encode(pcm)).decode("ascii")
        return [f'{{"type":"session.input_audio.append","audio":"{text}"}}']

    def read(self, message: Message, at: float) -> list[Event | Answer]:
        """One event."""
        try:
            values = json.loads(message)
            event = self._event(values, at)
        except (ValueError, KeyError, TypeError, RecursionError):
            return []
        return [] if event is None else [event]

    def _event(self, values: dict[str, object], at: float) -> Event | None:
        """What an event of the server means; others than these are not needed."""
        kind = values["type"]
        if kind == "session.output_audio.delta":
            return Audio(_NO_PCM, binascii.a2b_base64(str(values["delta"])), at)
        if kind == "session.output_transcript.delta":
            return Text(str(values["delta"]), at)
        if kind == "session.started":
            return Handshake(0, 0, at)
        if kind == "session.usage.updated":
            return Metadata({"usage": values["usage"]}, at)
        if kind == "error":
            error = values["error"]
            return Error(str(error["message"] if isinstance(error, dict) else error), at)
        return None

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of a message."""
        return self._audio.decode(payload)

    def counter(self) -> Callable[[bytes], int]:
        """A sample for every two bytes."""
        return lambda payload: len(payload) // 2

"""A telephony provider and its caller, written from the providers' documents: opens a media stream,
says what the caller says, plays what comes back at the pace of time, and complains about every
message that the provider does not know, as Twilio does (warnings 31950 and 31951)."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kaiwa import g711

Array = NDArray[np.float32]
Json = dict[str, Any]

#: Samples a second of a telephone, and of 20 ms.
RATE = 8000
PACKET = 160


@dataclass(frozen=True)
class Words:
    """What one provider says and understands.

    Attributes:
        greet: messages before the start message.
        start, media, mark, stop: messages of a call; `stop` is None where there is none.
        played: what the fields of an audio message must be, and where its payload is.
        shapes: keys of each message that it understands, by its event, dotted.
        mark_name: where the name of a mark is.
        linear: 16-bit samples in place of µ-law.
    """

    greet: list[Json]
    start: Callable[[Mapping[str, str]], Json]
    media: Callable[[int, str], Json]
    mark: Callable[[str], Json]
    stop: Json | None
    audio_event: str
    mark_event: str
    clear_event: str
    shapes: dict[str, set[str]]
    mark_name: tuple[str, ...] = ("mark", "name")
    linear: bool = False


def twilio_start(parameters: Mapping[str, str], **media_format: Any) -> Json:
    return {
        "event": "start",
        "sequenceNumber": "1",
        "start": {
            "accountSid": "AC1",
            "streamSid": "MZ1",
            "callSid": "CA1",
            "tracks": ["inbound"],
            "mediaFormat": {
                "encoding": "audio/x-mulaw",
                "sampleRate": 8000,
                "channels": 1,
                **media_format,
            },
            "customParameters": dict(parameters),
        },
        "streamSid": "MZ1",
    }


TWILIO = Words(
    greet=[{"event": "connected", "protocol": "Call", "version": "1.0.0"}],
    start=twilio_start,
    media=lambda number, payload: {
        "event": "media",
        "sequenceNumber": str(number + 2),
        "media": {
            "track": "inbound",
            "chunk": str(number + 1),
            "timestamp": str(number * 20),
            "payload": payload,
        },
        "streamSid": "MZ1",
    },
    mark=lambda name: {
        "event": "mark",
        "sequenceNumber": "9",
        "streamSid": "MZ1",
        "mark": {"name": name},
    },
    stop={
        "event": "stop",
        "sequenceNumber": "99",
        "streamSid": "MZ1",
        "stop": {"accountSid": "AC1", "callSid": "CA1"},
    },
    audio_event="media",
    mark_event="mark",
    clear_event="clear",
    shapes={
        "media": {"event", "streamSid", "media.payload"},
        "mark": {"event", "streamSid", "mark.name"},
        "clear": {"event", "streamSid"},
    },
)

TELNYX = Words(
    greet=[{"event": "connected", "version": "1.0.0"}],
    start=lambda parameters: {
        "event": "start",
        "sequence_number": "1",
        "stream_id": "32DE",
        "start": {
            "user_id": "3E6F",
            "call_control_id": "v2:T02",
            "from": "+13122010094",
            "to": "+13122123456",
            "custom_parameters": dict(parameters),
            "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        },
    },
    media=lambda number, payload: {
        "event": "media",
        "sequence_number": str(number + 2),
        "stream_id": "32DE",
        "media": {
            "track": "inbound",
            "chunk": str(number + 1),
            "timestamp": str(number * 20),
            "payload": payload,
        },
    },
    mark=lambda name: {"event": "mark", "stream_id": "32DE", "mark": {"name": name}},
    stop={"event": "stop", "stream_id": "32DE", "stop": {"user_id": "3E6F"}},
    audio_event="media",
    mark_event="mark",
    clear_event="clear",
    shapes={
        "media": {"event", "media.payload"},
        "mark": {"event", "mark.name"},
        "clear": {"event"},
    },
)

PLIVO = Words(
    greet=[],
    start=lambda parameters: {
        "event": "start",
        "sequenceNumber": 1,
        "start": {
            "callId": "1234",
            "streamId": "8765",
            "accountId": "MAX",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
        },
        "extra_headers": ";".join(f"{name}={value}" for name, value in parameters.items()),
    },
    media=lambda number, payload: {
        "event": "media",
        "sequenceNumber": number + 2,
        "streamId": "8765",
        "media": {"track": "inbound", "timestamp": "17", "chunk": number, "payload": payload},
    },
    mark=lambda name: {"event": "playedStream", "streamId": "8765", "name": name},
    stop=None,
    audio_event="playAudio",
    mark_event="checkpoint",
    clear_event="clearAudio",
    shapes={
        "playAudio": {
            "event",
            "streamId",
            "media.contentType",
            "media.sampleRate",
            "media.payload",
        },
        "checkpoint": {"event", "streamId", "name"},
        "clearAudio": {"event", "streamId"},
    },
    mark_name=("name",),
)

EXOTEL = Words(
    greet=[{"event": "connected"}],
    start=lambda parameters: {
        "event": "start",
        "sequence_number": "1",
        "stream_sid": "MZ2",
        "start": {
            "stream_sid": "MZ2",
            "call_sid": "CA2",
            "account_sid": "AC2",
            "from": "+919876543210",
            "to": "+918047491899",
            "custom_parameters": dict(parameters),
            "media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"},
        },
    },
    media=lambda number, payload: {
        "event": "media",
        "sequence_number": str(number + 2),
        "stream_sid": "MZ2",
        "media": {"chunk": str(number), "timestamp": str(number * 20), "payload": payload},
    },
    mark=lambda name: {"event": "mark", "stream_sid": "MZ2", "mark": {"name": name}},
    stop={"event": "stop", "stream_sid": "MZ2", "stop": {"reason": "callended"}},
    audio_event="media",
    mark_event="mark",
    clear_event="clear",
    shapes={
        "media": {"event", "stream_sid", "media.payload"},
        "mark": {"event", "stream_sid", "mark.name"},
        "clear": {"event", "stream_sid"},
    },
    linear=True,
)

PROVIDERS = {"twilio": TWILIO, "telnyx": TELNYX, "plivo": PLIVO, "exotel": EXOTEL}


def keys(message: Json) -> set[str]:
    """Names of all fields, dotted."""
    found: set[str] = set()
    for key, value in message.items():
        inner = keys(value) if isinstance(value, dict) else {""}
        found |= {f"{key}.{name}".rstrip(".") for name in inner}
    return found


@dataclass
class Phone:
    """One call by phone.

    Attributes:
        sizes: bytes of each audio message.
        heard: the answer, as bytes of the line, in the order of playing.
        warnings: messages that the provider does not know.
        muted: nothing is played; what comes waits.
        clears: how often the queue was emptied.
    """

    socket: ClientConnection
    words: Words
    sizes: list[int] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    warnings: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    muted: bool = False
    clears: int = 0
    _number: int = 0
    _queue: deque[bytes | str] = field(default_factory=deque)

    async def send(self, message: Json) -> None:
        await self.socket.send(json.dumps(message))

    async def begin(self, **parameters: str) -> None:
        for message in self.words.greet:
            await self.send(message)
        await self.send(self.words.start(parameters))

    async def say(self, pcm: Array) -> None:
        """Audio at 8 kHz, as fast as it goes."""
        for at in range(0, len(pcm), PACKET):
            await self._packet(pcm[at : at + PACKET])

    async def speak(self, pcm: Array) -> None:
        """The same at the pace of time."""
        began = time.monotonic()
        for number, at in enumerate(range(0, len(pcm), PACKET)):
            await asyncio.sleep(began + number * 0.02 - time.monotonic())
            await self._packet(pcm[at : at + PACKET])

    async def _packet(self, pcm: Array) -> None:
        if self.words.linear:
            data = np.rint(pcm * 32767).astype("<i2").tobytes()
        else:
            data = g711.encode(pcm, "mulaw")
        payload = base64.b64encode(data).decode()
        await self.send(self.words.media(self._number, payload))
        self._number += 1

    async def stop(self) -> None:
        if self.words.stop is not None:
            await self.send(self.words.stop)
        else:
            await self.socket.close()

    async def listen(self) -> None:
        """Takes what the server sends until it closes; keeps what is to be played."""
        with suppress(ConnectionClosed):
            async for message in self.socket:
                await self._take(message)

    async def _take(self, message: str | bytes) -> None:
        words = self.words
        if isinstance(message, bytes):
            self.warnings.append("binary")
            return
        parsed = json.loads(message)
        event = parsed["event"]
        if keys(parsed) != words.shapes.get(event):
            self.warnings.append(message)
        elif event == words.audio_event:
            data = base64.b64decode(parsed["media"]["payload"], validate=True)
            self.sizes.append(len(data))
            self._queue.append(data)
        elif event == words.mark_event:
            name = parsed
            for key in words.mark_name:
                name = name[key]
            self.marks.append(str(name))
            self._queue.append(str(name))
        elif event == words.clear_event:
            self.clears += 1
            flushed = [item for item in self._queue if isinstance(item, str)]
            self._queue.clear()
            for mark in flushed:
                await self.send(words.mark(mark))

    async def play(self) -> None:
        """Plays what has come at the pace of time, and sends marks back that were reached."""
        due = time.monotonic()
        width = 2 if self.words.linear else 1
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            while self._queue and not self.muted:
                item = self._queue[0]
                if isinstance(item, bytes):
                    if due > now:
                        break
                    due = max(due, now - 0.02) + len(item) / width / RATE
                    self.heard += item
                elif due > now:
                    break
                else:
                    await self.send(self.words.mark(item))
                self._queue.popleft()

    @property
    def waiting(self) -> int:
        """Audio messages that were not played yet."""
        return sum(isinstance(item, bytes) for item in self._queue)

    @property
    def answer(self) -> Array:
        """All that was played, at 8 kHz."""
        if self.words.linear:
            linear = np.frombuffer(bytes(self.heard), "<i2").astype(np.float32)
            linear /= 32768
            return linear
        return g711.decode(bytes(self.heard), "mulaw")

    @property
    def closed(self) -> tuple[int | None, str]:
        return self.socket.close_code, self.socket.close_reason or ""


@asynccontextmanager
async def dial(
    port: int, provider: str = "twilio", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Phone]:
    """A phone whose provider has opened a stream, and has not said anything yet."""
    async with connect(
        f"ws://127.0.0.1:{port}/telephony/{provider}",
        proxy=None,
        compression=None,
        additional_headers=dict(headers or {}),
        close_timeout=1,
        max_queue=None,
    ) as socket:
        phone = Phone(socket, PROVIDERS[provider])
        tasks = [asyncio.create_task(phone.listen()), asyncio.create_task(phone.play())]
        try:
            yield phone
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

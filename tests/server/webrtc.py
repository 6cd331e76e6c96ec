"""A caller by WebRTC, made with aiortc."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import http.client
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from tests.server.live import Answer, At
from tests.server.openai_calls import Array, Event

from kaiwa.server.protocols.realtime.webrtc import ice
from kaiwa.server.protocols.realtime.webrtc.limits import Intake
from kaiwa.server.protocols.realtime.webrtc.network import Network
from kaiwa.server.protocols.realtime.webrtc.track import Incoming

PATH = "/v1/realtime/calls"
HERE = Network("127.0.0.1")


class Microphone(MediaStreamTrack):
    """Says samples at 24 kHz at the pace of time, then silence."""

    kind = "audio"

    def __init__(self, samples: Array) -> None:
        super().__init__()
        self._pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
        self._count = 0
        self._began = 0.0

    async def recv(self) -> AudioFrame:
        if not self._began:
            self._began = time.monotonic()
        await asyncio.sleep(max(0.0, self._began + self._count * 0.02 - time.monotonic()))
        piece = self._pcm[self._count * 480 : (self._count + 1) * 480]
        piece = np.pad(piece, (0, 480 - len(piece)))
        frame = AudioFrame.from_ndarray(piece.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 24_000, self._count * 480
        frame.time_base = fractions.Fraction(1, 24_000)
        self._count += 1
        return frame


class Caller:
    """One call; keeps every event and all sound."""

    def __init__(self, samples: Array | None = None, *, events: bool = True) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.intake = Intake(time.monotonic, lambda: None)
        self.seen: list[Event] = []
        self.closed = False
        self._news = asyncio.Event()
        self._sound: list[bytes] = []
        self._reading: asyncio.Task[None] | None = None
        self.connection.addTrack(
            Microphone(np.zeros(0, np.float32) if samples is None else samples)
        )
        self.connection.add_listener("track", self._on_track)
        self.connection.add_listener("connectionstatechange", self._on_state)
        self.channel: RTCDataChannel | None = None
        if events:
            self.channel = self.connection.createDataChannel("oai-events")
            self.channel.add_listener("message", self._on_message)
            self.channel.add_listener("close", self._on_close)

    async def offer(self) -> str:
        """The offer, as SDP."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    def stay_here(self) -> None:
        """Uses the loopback address alone, which aiortc leaves out."""
        (sender,) = self.connection.getSenders()
        gatherers = {sender.transport.transport.iceGatherer}
        if self.connection.sctp is not None:
            gatherers.add(self.connection.sctp.transport.transport.iceGatherer)
        for gatherer in gatherers:
            ice.place(gatherer._connection, HERE, self.intake)

    async def take(self, answer: str) -> None:
        """Connects with the answer of a server."""
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    def say(self, kind: str, **members: Any) -> None:
        assert self.channel is not None
        self.channel.send(json.dumps({"type": kind, **members}))

    async def find(self, kind: str, count: int = 1, seconds: float = 20.0) -> Event:
        """An event of a type, the first or a later one, which came or comes."""
        await self.until(lambda: len(self.of(kind)) >= count, kind, seconds)
        return self.of(kind)[count - 1]

    async def until(self, met: Any, what: str = "", seconds: float = 20.0) -> None:
        """Waits until something is so after an event, a piece of sound, or the end."""
        until = time.monotonic() + seconds
        while not met():
            self._news.clear()
            left = until - time.monotonic()
            assert left > 0, f"not within {seconds:g} s: {what}; {[e['type'] for e in self.seen]}"
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)

    def of(self, kind: str) -> list[Event]:
        """Events of a type so far."""
        return [event for event in self.seen if event["type"] == kind]

    @property
    def said(self) -> str:
        """What the model said, read."""
        kind = "response.output_audio_transcript.delta"
        return "".join(event["delta"] for event in self.of(kind))

    @property
    def heard(self) -> Array:
        """What the model said, heard: samples at 24 kHz."""
        samples = np.frombuffer(b"".join(self._sound), np.int16).astype(np.float32)
        samples /= 32768
        return samples

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._reading = asyncio.ensure_future(self._read(track))

    async def _read(self, track: MediaStreamTrack) -> None:
        incoming = Incoming()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame)
                self._sound.append(incoming.pcm(frame))
                self._news.set()

    def _on_message(self, message: str) -> None:
        self.seen.append(json.loads(message))
        self._news.set()

    def _on_close(self) -> None:
        self.closed = True
        self._news.set()

    def _on_state(self) -> None:
        if self.connection.connectionState in ("closed", "failed"):
            self._on_close()

    def vanish(self) -> None:
        """Sends and hears nothing more, without a word."""
        self.intake.closed = True
        (sender,) = self.connection.getSenders()
        for protocol in sender.transport.transport.iceGatherer._connection._protocols:
            protocol.transport.sendto = lambda *_: None  # type: ignore[method-assign]

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        await self.connection.close()


def post(
    at: At,
    body: str | bytes,
    kind: str = "application/sdp",
    *,
    path: str = PATH,
    key: str | None = None,
    origin: str | None = None,
) -> Answer:
    """Posts an offer."""
    headers = {"Content-Type": kind}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if origin is not None:
        headers["Origin"] = origin
    connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        got = connection.getresponse()
        named = {name.lower(): value for name, value in got.getheaders()}
        return Answer(got.status, named, got.read())
    finally:
        connection.close()


def form(**fields: str) -> tuple[bytes, str]:
    """A multipart form and its content type."""
    parts = [
        f'--line\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return ("".join(parts) + "--line--\r\n").encode(), "multipart/form-data; boundary=line"


@asynccontextmanager
async def calling(
    at: At,
    samples: Array | None = None,
    *,
    events: bool = True,
    key: str | None = None,
    origin: str | None = None,
) -> AsyncIterator[Caller]:
    """A call that is answered; hung up with the block."""
    caller = Caller(samples, events=events)
    try:
        caller.stay_here()
        answer = await asyncio.to_thread(post, at, await caller.offer(), key=key, origin=origin)
        assert answer.status == 201, answer.body
        await caller.take(answer.body.decode())
        yield caller
    finally:
        await caller.close()

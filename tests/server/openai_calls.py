"""OpenAI's protocols as tests see them: events one by one."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.server.live import At
from tests.server.wire import FRAME, from_pcm16, pcm16
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]
Array = NDArray[np.float32]


class Talk:
    """One websocket; keeps every event that came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Event] = []

    async def say(self, kind: str, **members: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **members}))

    async def hear(self, seconds: float = 20.0) -> Event:
        """The next event."""
        got = await asyncio.wait_for(self.socket.recv(), seconds)
        assert isinstance(got, str), "events are text"
        event: Event = json.loads(got)
        self.seen.append(event)
        return event

    async def find(self, kind: str, seconds: float = 20.0) -> Event:
        """The next event of a type."""
        until = time.monotonic() + seconds
        while True:
            event = await self.hear(until - time.monotonic())
            if event["type"] == kind:
                return event

    async def gone(self, seconds: float = 20.0) -> tuple[int, str]:
        """Reads to the end; gives close code and reason."""
        try:
            while True:
                await self.hear(seconds)
        except ConnectionClosed:
            pass
        return self.socket.close_code or 0, self.socket.close_reason or ""

    def of(self, kind: str) -> list[Event]:
        """Events of a type so far."""
        return [event for event in self.seen if event["type"] == kind]


@asynccontextmanager
async def talk(at: At, path: str, **options: Any) -> AsyncIterator[Talk]:
    """A connection; closed with the block."""
    url = f"ws://127.0.0.1:{at.port}{path}"
    options = {"compression": None, "ping_interval": None, "max_queue": None, **options}
    async with connect(url, proxy=None, close_timeout=1, max_size=None, **options) as socket:
        yield Talk(socket)


@asynccontextmanager
async def live_session(
    at: At, path: str = "/v1/live/sessions", **session: Any
) -> AsyncIterator[Talk]:
    """A Live session that was started."""
    async with talk(at, path) as made:
        await made.say("session.start", session={"model": "gpt-live-1", **session})
        await made.find("session.started")
        yield made


async def sounds(client: Talk, count: int, kind: str = "session.output_audio.delta") -> Array:
    """The next frames of 24 kHz that are not silent. A server puts silence in where a client is
    late, as one on a busy machine may be."""
    heard: list[Array] = []
    while len(heard) < count:
        frame = from_pcm16([base64.b64decode((await client.find(kind))["delta"])])
        if frame.any():
            heard.append(frame)
    return np.concatenate(heard)


def base64_pcm(samples: Array) -> str:
    return base64.b64encode(pcm16(samples)).decode()


def frames_of(sound: Array) -> list[Array]:
    """Whole frames of a sound."""
    return [sound[at : at + FRAME] for at in range(0, len(sound) // FRAME * FRAME, FRAME)]


async def paced(count: int, each: Callable[[int], Any]) -> None:
    """Calls something for each frame, one every 80 ms."""
    began = asyncio.get_running_loop().time()
    for number in range(count):
        await each(number)
        ahead = began + (number + 1) * 0.08 - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, ahead))

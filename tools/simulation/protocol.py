"""A wire protocol for simulated callers: every kind of input, as cheap as it can be.

What a client sends begins with four bytes of kind, what it gets with one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.channel import Message
from kaiwa.server.protocols import base
from kaiwa.server.protocols.base import CallInfo, CallRequest, Ending, Entry, Input
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, TextEvent

PATH = "/simulated"
NAME = "simulated"

#: Frames and callers are numbered by their first two samples, in these units: exact in float32.
UNIT = 2.0**-20
_FRAME = 1920


def frame(caller: int, number: int) -> bytes:
    """80 ms of a caller."""
    pcm: NDArray[np.float32] = np.zeros(_FRAME, np.float32)
    pcm[0], pcm[1] = number * UNIT, caller * UNIT
    return b"aud " + pcm.tobytes()


def numbers(head: bytes) -> tuple[int, int]:
    """Number of the frame, number of the caller."""
    first, second = np.frombuffer(head, np.float32, 2)
    return int(first / UNIT), int(second / UNIT)


class SimulatedProtocol(base.WireProtocol):
    """All that a call can ask for and send."""

    name = NAME
    paths = (PATH,)

    def codec(self) -> base.CallCodec:
        return SimulatedCodec()


class SimulatedCodec(base.CallCodec):
    """Translates for one connection."""

    async def open(self, entry: Entry) -> CallRequest:
        await entry.authorize()
        query = entry.query
        if "early" in query:
            # As of protocols that say what they want in a message.
            entry.check_room()
            await entry.accept()
            if await entry.receive() != b"open":
                raise Refused(400, "bad_parameter", "this is no request; send `open` first")
        return CallRequest(
            seed=int(query["seed"]),
            realtime="file" not in query,
            server_clock="clock" in query,
            resumable="resumable" in query,
            resume=query.get("resume"),
            max_frames=int(query["max_frames"]) if "max_frames" in query else None,
        )

    def decode(self, message: Message) -> Iterable[Input]:
        assert isinstance(message, bytes)
        kind = message[:4]
        if kind == b"aud ":
            return (base.Audio(np.frombuffer(message, np.float32, offset=4)),)
        if kind == b"echo":
            return (base.Reply((message,)),)
        if kind == b"stop":
            return (base.Pause(True),)
        if kind == b"go  ":
            return (base.Pause(False),)
        if kind == b"end ":
            return (base.Finish(),)
        if kind == b"bye ":
            return (base.HangUp(),)
        return (base.Unknown(),)

    def started(self, info: CallInfo) -> Iterable[Message]:
        resumed = b"r" if info.resumed else b"n"
        return (b"s" + resumed + (info.resume_token or "").encode(),)

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        if isinstance(event, AudioEvent):
            return (b"a" + event.pcm[:2].tobytes(),)
        if isinstance(event, StateEvent):
            return (b"q" + event.state.encode(),)
        return ()

    def keepalive(self, *, started: bool) -> Message | None:
        return b"k"

    def end(self, reason: str, message: str) -> Ending:
        return replace(super().end(reason, message), messages=(b"e" + message.encode(),))

    def refuse(self, refused: Refused) -> Ending:
        return replace(super().refuse(refused), messages=(b"e" + refused.message.encode(),))

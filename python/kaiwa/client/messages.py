"""Messages of `/api/chat`: type bytes, and what a received message means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Samples a second, and samples of a frame (80 ms).
SAMPLE_RATE = 24_000
FRAME = 1920
FRAME_SECONDS = FRAME / SAMPLE_RATE

HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)


@dataclass(frozen=True)
class Handshake:
    """The call has a slot; servers that send one byte only count as version 0."""

    protocol: int
    model: int
    at: float


@dataclass(frozen=True, eq=False)
class Audio:
    """Part of the answer: any number of samples, often 1920 (80 ms)."""

    #: float32 ``[n]``; empty if the client does not decode.
    pcm: NDArray[np.float32]
    #: As it came: pages of Ogg/Opus, or 16-bit PCM.
    payload: bytes
    #: `time.perf_counter()` at arrival.
    at: float
    #: Number of the frame of the answer with which it begins; None: it goes on where the audio
    #: before it ended.
    frame: int | None = None
    #: It begins a turn: where frames are left out before it, they were silence.
    begins: bool = False


@dataclass(frozen=True)
class Text:
    """A piece of text; a leading space begins a word."""

    text: str
    at: float
    #: Number of the frame of the answer to which it belongs; None: the last whose audio came.
    frame: int | None = None


@dataclass(frozen=True)
class Metadata:
    """What the server says about itself and the conversation."""

    values: Mapping[str, Any]
    at: float


@dataclass(frozen=True)
class State:
    """Where the call stands, such as `queued` at `position` (1 is next)."""

    state: str
    position: int | None
    values: Mapping[str, Any]
    at: float


@dataclass(frozen=True)
class Error:
    """Why the server is about to close the connection."""

    message: str
    at: float


@dataclass(frozen=True)
class Ping:
    """Keepalive; with a payload it is our own, sent back."""

    payload: bytes
    at: float


Event = Handshake | Audio | Text | Metadata | State | Error | Ping

_NO_PCM = np.zeros(0, np.float32)


def parse(message: bytes | str, at: float) -> Event | None:
    """The event of a message; None if it means nothing. Audio is not decoded."""
    if not message or isinstance(message, str):
        return None
    kind, payload = message[0], message[1:]
    if kind == AUDIO:
        return Audio(_NO_PCM, payload, at)
    if kind == TEXT:
        return Text(payload.decode("utf-8", "replace"), at)
    if kind == HANDSHAKE:
        return _handshake(payload, at)
    if kind == METADATA:
        return _metadata(payload, at)
    if kind == ERROR:
        return Error(payload.decode("utf-8", "replace"), at)
    if kind == PING:
        return Ping(payload, at)
    return None


def printable(text: str) -> str:
    """Text from a server without what would steer a terminal."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def _handshake(payload: bytes, at: float) -> Handshake:
    """Two versions; what is missing counts as 0."""
    versions = payload[:8].ljust(8, b"\0")
    protocol, model = (int.from_bytes(versions[i : i + 4], "little") for i in (0, 4))
    return Handshake(protocol, model, at)


def _metadata(payload: bytes, at: float) -> Metadata | State | None:
    """An object of JSON: a change of state, or the description of the conversation."""
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    state = values.get("state")
    if isinstance(state, str):
        position = values.get("position")
        whole = isinstance(position, int) and not isinstance(position, bool)
        return State(state, position if whole else None, values, at)
    return Metadata(values, at)

"""Timing: streams frame by frame, and whole files, engines taking turns round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kaiwa.bench.engines import Codes, Engine

Array = NDArray[np.float32]

#: Untimed frames at the start of every round.
WARM_UP = 3

#: Frames in which every implementation has the same attention window.
COMPARABLE_FRAMES = 125


@dataclass
class StreamTimes:
    """Milliseconds of every timed frame, one list per round; a frame is that of all slots."""

    engine: str
    slots: int
    encode: list[list[float]] = field(default_factory=list)
    decode: list[list[float]] = field(default_factory=list)

    def per_stream(self, part: str) -> list[float]:
        """Median milliseconds per stream and frame of `encode`, `decode` or `both`, by round."""
        if part == "both":
            pairs = zip(self.per_stream("encode"), self.per_stream("decode"), strict=True)
            return [sum(pair) for pair in pairs]
        rounds = self.encode if part == "encode" else self.decode
        return [float(np.median(times)) / self.slots for times in rounds]


@dataclass
class FileTimes:
    """Seconds to encode and to decode one file, by round."""

    engine: str
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def total(self) -> list[float]:
        """Both directions, by round."""
        return [a + b for a, b in zip(self.encode, self.decode, strict=True)]


def time_streams(
    engine: Engine, pcm: Array, frame_size: int, frames: int, times: StreamTimes
) -> None:
    """One round: fresh streams, `WARM_UP` frames untimed, then `frames` timed.

    `pcm` is `[slots, 1, (WARM_UP + frames) * frame_size]` or longer.
    """
    streams = engine.streams(len(pcm))
    encode: list[float] = []
    decode: list[float] = []
    for index in range(WARM_UP + frames):
        at = index * frame_size
        piece = np.ascontiguousarray(pcm[:, :, at : at + frame_size])
        start = time.perf_counter()
        codes = streams.encode(piece)
        middle = time.perf_counter()
        streams.decode(codes)
        end = time.perf_counter()
        if index >= WARM_UP:
            encode.append(1e3 * (middle - start))
            decode.append(1e3 * (end - middle))
    times.encode.append(encode)
    times.decode.append(decode)


def time_file(engine: Engine, pcm: Array, times: FileTimes) -> None:
    """One round of a whole signal there and back."""
    prepare: Callable[[], None] | None = getattr(engine, "prepare_file", None)
    if prepare is not None:
        prepare()
    start = time.perf_counter()
    codes: Codes = engine.encode_file(pcm)
    middle = time.perf_counter()
    engine.decode_file(codes)
    times.encode.append(middle - start)
    times.decode.append(time.perf_counter() - middle)


@dataclass(frozen=True)
class Ratio:
    """How many times longer a peer takes: median over rounds, smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, peer: Sequence[float], own: Sequence[float]) -> Ratio:
        """Round by round, the two of a round measured one right after the other."""
        ratios = [p / o for p, o in zip(peer, own, strict=True)]
        return cls(float(np.median(ratios)), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.1f}x ({self.low:.1f}..{self.high:.1f})"

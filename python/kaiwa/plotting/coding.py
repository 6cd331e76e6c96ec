"""Codes of a signal that comes piece by piece, at any rate."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import InputError
from kaiwa.mimi import Mimi
from kaiwa.resampler import Resampler

#: Frames given to the codec at once (2.56 s).
CHUNK_FRAMES = 32


@dataclass(frozen=True)
class Codes:
    """What the codec makes of a signal.

    Attributes:
        values: integers `[codebooks, frames]`.
        frame_rate: columns per second.
        cardinality: codes are 0 to this minus 1.
        begin: second of the call at which the first column begins.
    """

    values: NDArray[np.integer]
    frame_rate: float
    cardinality: int
    begin: float = 0.0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or 0 in self.values.shape:
            raise InputError(
                f"the codes have shape {list(self.values.shape)}; give [codebooks, frames] with at "
                "least one of each"
            )

    @property
    def end(self) -> float:
        """Second of the call at which the last column ends."""
        return self.begin + int(self.values.shape[1]) / self.frame_rate

    def part(self, start: float, end: float) -> Codes:
        """The columns of some seconds of the call; at least one."""
        frames = self.values.shape[1]
        first = min(int(start * self.frame_rate), frames - 1)
        last = frames if math.isinf(end) else math.ceil(end * self.frame_rate)
        columns = self.values[:, first : max(last, first + 1)]
        return dataclasses.replace(self, values=columns, begin=first / self.frame_rate)


class Encoder:
    """Encodes one signal.

    Args:
        mimi: the codec.
        rate: samples per second of what comes.
    """

    def __init__(self, mimi: Mimi, rate: int) -> None:
        self._mimi = mimi
        self._stream = mimi.stream(1, window="whole")
        self._resampler = None if rate == mimi.sample_rate else Resampler(rate, mimi.sample_rate)
        self._waiting = np.zeros(0, np.float32)
        self._columns: list[NDArray[np.uint16]] = []

    def add(self, pcm: NDArray[np.float32]) -> None:
        """The next samples, float32 `[n]`."""
        self._take(pcm if self._resampler is None else self._resampler.process(pcm))

    def _take(self, pcm: NDArray[np.float32]) -> None:
        """Samples at the codec's rate: encodes what makes whole chunks."""
        self._waiting = np.concatenate([self._waiting, pcm])
        chunk = CHUNK_FRAMES * self._mimi.frame_size
        whole = len(self._waiting) // chunk * chunk
        for start in range(0, whole, chunk):
            self._encode(self._waiting[start : start + chunk])
        self._waiting = self._waiting[whole:].copy()

    def _encode(self, pcm: NDArray[np.float32]) -> None:
        """Samples, the end filled with silence to a whole frame."""
        size = self._mimi.frame_size
        padded = np.zeros(-(-len(pcm) // size) * size, np.float32)
        padded[: len(pcm)] = pcm
        codes = self._stream.encode(padded[None, None, :])[0]
        self._columns.append(codes.astype(np.uint16))

    def codes(self) -> Codes:
        """Ends the signal; it must have had a sample."""
        if self._resampler is not None:
            self._take(self._resampler.finish())
        if len(self._waiting):
            self._encode(self._waiting)
            self._waiting = self._waiting[:0]
        values = np.concatenate(self._columns, axis=1)
        return Codes(values, self._mimi.frame_rate, self._mimi.cardinality)

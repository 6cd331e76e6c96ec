"""The outline of a signal of any length in bounded memory: smallest, largest and mean square sample
of short stretches, which become longer as the signal goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Seconds of the first stretches.
SHORTEST = 0.01
#: Stretches at most; beyond that each two become one. An even number, a few to a pixel.
MOST = 4096


@dataclass(frozen=True)
class Outline:
    """A signal's outline.

    Attributes:
        seconds: length of a stretch; the last one may be shorter.
        low, high: float32 `[stretches]`, smallest and largest sample.
        rms: float32 `[stretches]`, root of the mean square.
    """

    seconds: float
    low: Array
    high: Array
    rms: Array

    @property
    def starts(self) -> NDArray[np.float64]:
        """Where each stretch begins, in seconds."""
        return np.arange(len(self.low), dtype=np.float64) * self.seconds


class Envelope:
    """Takes a signal piece by piece.

    Args:
        rate: samples per second.
        most: whole stretches to keep at most, an even number.
    """

    def __init__(self, rate: int, most: int = MOST) -> None:
        self._rate = rate
        self._size = max(1, round(rate * SHORTEST))
        self._count = 0
        self._low, self._high, self._square = (np.zeros(most, np.float32) for _ in range(3))
        self._rest = np.zeros(0, np.float32)

    def add(self, pcm: Array) -> None:
        """The next samples `[n]`."""
        pcm = np.concatenate([self._rest, pcm])
        at = 0
        while len(pcm) - at >= self._size:
            if self._count == len(self._low):
                self._halve()
                continue
            count = min((len(pcm) - at) // self._size, len(self._low) - self._count)
            rows = pcm[at : at + count * self._size].reshape(count, self._size)
            self._put(rows, count)
            at += count * self._size
        self._rest = pcm[at:].copy()

    def _put(self, rows: Array, count: int) -> None:
        """Stretches, one a row."""
        here = slice(self._count, self._count + count)
        self._low[here] = rows.min(axis=1)
        self._high[here] = rows.max(axis=1)
        self._square[here] = np.mean(np.square(rows, dtype=np.float32), axis=1)
        self._count += count

    def _halve(self) -> None:
        """Makes one stretch of each two."""
        half = self._count // 2
        self._low[:half] = np.minimum(self._low[::2], self._low[1::2])
        self._high[:half] = np.maximum(self._high[::2], self._high[1::2])
        self._square[:half] = (self._square[::2] + self._square[1::2]) / 2
        self._count, self._size = half, 2 * self._size

    def outline(self) -> Outline:
        """What was taken so far."""
        low, high, square = (a[: self._count] for a in (self._low, self._high, self._square))
        if len(self._rest):
            low = np.append(low, self._rest.min())
            high = np.append(high, self._rest.max())
            square = np.append(square, np.mean(np.square(self._rest)))
        return Outline(self._size / self._rate, low.copy(), high.copy(), np.sqrt(square))

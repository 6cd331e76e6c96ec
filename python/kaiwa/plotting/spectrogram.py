"""The spectrogram of a signal of any length in bounded memory: columns are averages of power, over
times that become longer as the signal goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Seconds between the first columns.
SHORTEST = 0.01
#: Columns at most; beyond that each two become one. An even number, a few to a pixel.
MOST = 2048
#: Seconds that a window is long, at least; it has a power of two samples.
WINDOW = 0.03
#: Hz above which nothing is kept: Mimi's audio ends there.
HIGHEST = 12_000
#: dB below full scale that stand for silence.
FLOOR = -140.0
#: Windows transformed at once.
_TOGETHER = 64
#: Windows that a column is made of, at most about; one column needs no more to show its colours.
_PER_COLUMN = 4


@dataclass(frozen=True)
class Image:
    """A spectrogram.

    Attributes:
        decibels: float32 `[frequencies, columns]`; a sine of full scale is 0 dB.
        seconds: between columns.
        hertz: the highest frequency; the lowest is 0.
    """

    decibels: Array
    seconds: float
    hertz: float


class Spectrogram:
    """Takes a signal piece by piece.

    Args:
        rate: samples per second.
        most: columns to keep at most, an even number.
    """

    def __init__(self, rate: int, most: int = MOST) -> None:
        self._rate = rate
        self._size = self._hop = max(1, round(rate * SHORTEST))
        self._length = 1 << max(5, int(np.ceil(np.log2(rate * WINDOW))))
        self._rows = min(self._length // 2, HIGHEST * self._length // rate) + 1
        self._window = np.hanning(self._length).astype(np.float32)
        self._power = np.zeros((most, self._rows), np.float32)
        self._taken = np.zeros(most, np.int64)
        # Half a window of silence before the first sample, so that it is in the middle of one.
        self._waiting = np.zeros(self._length // 2, np.float32)
        self._middle = 0
        self._samples = 0
        # Samples still to come that lie between two windows.
        self._between = 0

    def add(self, pcm: Array) -> None:
        """The next samples `[n]`."""
        self._samples += len(pcm)
        self._take(pcm)

    def _take(self, pcm: Array) -> None:
        """Samples, or the silence behind them."""
        passed = min(self._between, len(pcm))
        self._between -= passed
        self._waiting = np.concatenate([self._waiting, pcm[passed:]])
        if not self._between:
            self._transform()

    def _transform(self) -> None:
        """Every window that is complete."""
        at = 0
        while len(self._waiting) - at >= self._length:
            room = (len(self._waiting) - at - self._length) // self._hop + 1
            count = min(room, _TOGETHER)
            every = np.lib.stride_tricks.sliding_window_view(self._waiting[at:], self._length)
            windows = every[:: self._hop][:count] * self._window
            spectrum = np.fft.rfft(windows, axis=1)[:, : self._rows]
            power = np.square(np.abs(spectrum) * (2 / self._window.sum()))
            middles = self._middle + np.arange(count) * self._hop
            while middles[-1] // self._size >= len(self._taken):
                self._halve()
            columns = middles // self._size
            np.add.at(self._power, columns, power.astype(np.float32))
            np.add.at(self._taken, columns, 1)
            at += count * self._hop
            self._middle += count * self._hop
            self._hop = max(self._hop, self._size // _PER_COLUMN)
        self._between = max(0, at - len(self._waiting))
        self._waiting = self._waiting[at:].copy()

    def _halve(self) -> None:
        """Makes one column of each two."""
        half = len(self._taken) // 2
        self._power[:half] = self._power[::2] + self._power[1::2]
        self._taken[:half] = self._taken[::2] + self._taken[1::2]
        self._power[half:] = 0
        self._taken[half:] = 0
        self._size *= 2

    def image(self) -> Image:
        """Ends the signal, with half a window of silence behind it; gives its spectrogram."""
        self._take(np.zeros(self._length // 2, np.float32))
        columns = -(-self._samples // self._size)
        power, taken = self._power[:columns], self._taken[:columns, None]
        mean = power / np.maximum(taken, 1)
        decibels = 10 * np.log10(np.maximum(mean, 10 ** (FLOOR / 10)))
        hertz = (self._rows - 1) * self._rate / self._length
        return Image(decibels.T.astype(np.float32), self._size / self._rate, hertz)

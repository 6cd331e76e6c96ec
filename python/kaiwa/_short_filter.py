"""Sample-rate conversion with little delay, for audio that is heard as it comes."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.intp]

#: Taps on each side, counted at the lower of the two rates; so many samples are the delay.
SIDE = 40
#: Where the filter has lost half, of the lower rate's half.
CUTOFF = 0.93
#: Filters of different phase that are kept at most.
MOST_PHASES = 1000
#: So many are each applied to all of the input at once, of which a part is used; more are applied
#: to a copy of each sample's own input.
FEW_PHASES = 6
#: Samples that are converted at once.
BLOCK = 4096


class ShortFilter:
    """A polyphase filter: one set of taps for every position that an output sample can have between
    two of the input. Its state is the input that the next output samples still need.

    Nothing waits: samples give at once as many as they are worth at the other rate. So the output
    begins with silence, as long as the filter's delay.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """A filter between two rates in Hz.

        Raises:
            ValueError: They have too many phases.
        """
        common = math.gcd(from_rate, to_rate)
        self._up, self._down = to_rate // common, from_rate // common
        if self._up > MOST_PHASES:
            raise ValueError("too many phases")
        self._taps, delay = _taps(self._up, self._down)
        self._delay = delay
        self._begin()

    def _begin(self) -> None:
        self._taken = self._given = 0
        #: The last samples; the window of output sample `_next` begins at the first of them.
        self._rest = np.zeros(self._taps.shape[1] - 1, np.float32)
        #: Position of the next output sample from the first sample after the rest, in phases.
        self._at = 0

    def process(self, pcm: Array) -> Array:
        """Takes samples `[n]` and gives those that are ready."""
        parts = [self._convert(pcm[at : at + BLOCK]) for at in range(0, len(pcm), BLOCK)]
        out = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self._taken += len(pcm)
        self._given += len(out)
        return out

    def finish(self) -> Array:
        """Gives what the delay holds back, and returns to the beginning."""
        wanted = -(-self._taken * self._up // self._down) + self._delay - self._given
        parts: list[Array] = [np.zeros(0, np.float32)]
        while sum(map(len, parts)) < wanted:
            parts.append(self._convert(np.zeros(BLOCK, np.float32)))
        self._begin()
        return np.concatenate(parts)[:wanted]

    def _convert(self, pcm: Array) -> Array:
        samples = np.concatenate([self._rest, pcm])
        end = len(pcm) * self._up
        places = np.arange(self._at, end, self._down)
        self._at += len(places) * self._down - end
        self._rest = samples[len(pcm) :]
        whole, phase = np.divmod(places, self._up)
        out = self._filtered(samples, whole, phase)
        return np.ascontiguousarray(out, np.float32)

    def _filtered(self, samples: Array, whole: Indices, phase: Indices) -> Array:
        """The output samples whose windows begin at `whole`, by the taps of their phases."""
        if self._up > FEW_PHASES:
            windows = sliding_window_view(samples, self._taps.shape[1])[whole]
            gathered: Array = np.einsum("nk,nk->n", windows, self._taps[phase])
            return gathered
        out = np.empty(len(whole), np.float32)
        for number, taps in enumerate(self._taps):
            chosen = phase == number
            if chosen.any():
                out[chosen] = np.correlate(samples, taps, "valid")[whole[chosen]]
        return out


@functools.cache
def _taps(up: int, down: int) -> tuple[Array, int]:
    """Taps `[phases, taps]`, the oldest sample first, and the delay in output samples."""
    lower = max(up, down)
    # A whole number of output samples.
    middle = -(-SIDE * lower // down) * down
    count = -(-(2 * middle + 1) // up)
    position = np.arange(count * up) - middle
    window = np.clip(0.5 + position / (2 * middle), 0, 1) * 2 * np.pi
    shape = 0.42 - 0.5 * np.cos(window) + 0.08 * np.cos(2 * window)
    taps = np.sinc(CUTOFF * position / lower) * CUTOFF / lower * shape * up
    by_phase = taps.reshape(count, up).T[:, ::-1]
    return np.ascontiguousarray(by_phase, np.float32), middle // down

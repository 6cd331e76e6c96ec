"""What lies between answers from a network and a loudspeaker: short, and it stays short."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Seconds: wait before playing; most that may stand for WINDOW; most at any time.
TARGET = 0.06
STANDING = 0.12
LIMIT = 0.4
WINDOW = 2.0


class JitterBuffer:
    """Samples written by one thread and read by another.

    Playing starts TARGET after the first samples, and again after the buffer ran empty. What is
    more than LIMIT is dropped from the oldest; and what has stood unused for WINDOW beyond
    STANDING is cut, so that a delay does not stay.

    Attributes:
        underruns: times it ran empty.
        dropped: seconds that were cut.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.underruns = 0
        self.dropped = 0.0
        self._lock = threading.Lock()
        self._parts: deque[Array] = deque()
        self._size = 0
        self._wait: int | None = None
        self._playing = False
        self._floor = 0
        self._read = 0

    @property
    def seconds(self) -> float:
        """What waits to be played."""
        return self._size / self.rate

    def write(self, pcm: Array) -> None:
        """Adds float32 samples `[n]`."""
        if not len(pcm):
            return
        with self._lock:
            self._parts.append(pcm)
            self._size += len(pcm)
            if not self._playing and self._wait is None:
                self._wait = self._samples(TARGET)
            if self._size > self._samples(LIMIT):
                self._drop(self._size - self._samples(STANDING))

    def read(self, count: int) -> Array:
        """The next `count` samples; silence where there are none."""
        out = np.zeros(count, np.float32)
        with self._lock:
            at = self._start(count)
            if self._playing and at < count:
                at += self._take(out[at:])
                if at < count:
                    self._playing = False
                    self.underruns += 1
                self._trim(count)
        return out

    def _start(self, count: int) -> int:
        """Lets the wait pass; gives where in a block of `count` playing starts."""
        if self._playing or self._wait is None:
            return 0
        passed = min(self._wait, count)
        self._wait -= passed
        if self._wait == 0:
            self._wait = None
            self._playing = True
            self._floor, self._read = self._size, 0
        return passed

    def _take(self, out: Array) -> int:
        """Fills `out` from the oldest samples as far as they go."""
        done = 0
        while done < len(out) and self._parts:
            part = self._parts.popleft()
            used = min(len(part), len(out) - done)
            out[done : done + used] = part[:used]
            if used < len(part):
                self._parts.appendleft(part[used:])
            done += used
        self._size -= done
        return done

    def _trim(self, count: int) -> None:
        """Cuts what has stood unused for a whole window."""
        self._floor = min(self._floor, self._size)
        self._read += count
        if self._read < self._samples(WINDOW):
            return
        if self._floor > self._samples(STANDING):
            self._drop(self._floor - self._samples(TARGET))
        self._floor, self._read = self._size, 0

    def _drop(self, count: int) -> None:
        """Forgets the oldest `count` samples."""
        self._take(np.empty(count, np.float32))
        self.dropped += count / self.rate

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.rate)

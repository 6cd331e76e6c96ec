"""A frame each 80 ms on an absolute schedule: what is late does not move what follows, and what
is too late is skipped, not sent in a burst."""

from __future__ import annotations

from kaiwa.client.messages import FRAME_SECONDS


class Schedule:
    """The times of one call's frames; plain arithmetic, the caller has the clock.

    Args:
        start: time of the first frame.
        period: seconds from frame to frame.

    Attributes:
        skipped: times that passed without a frame, because the caller was late.
        lateness: of each frame, seconds after its time.
    """

    def __init__(self, start: float, period: float = FRAME_SECONDS) -> None:
        self._start = start
        self._period = period
        self._index = 0
        self.skipped = 0
        self.lateness: list[float] = []

    @property
    def due(self) -> float:
        """Time of the next frame."""
        return self._start + self._index * self._period

    def go(self, now: float) -> None:
        """A frame is about to be sent."""
        late = max(0.0, now - self.due)
        self.lateness.append(late)
        behind = int(late / self._period)
        self.skipped += behind
        self._index += 1 + behind

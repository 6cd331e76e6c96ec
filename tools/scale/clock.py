"""Time that jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Events in order of time; those of one moment in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    def at(self, time: float, event: Callable[[], object]) -> None:
        """Does something at a time."""
        heapq.heappush(self._events, (time, next(self._count), event))

    def after(self, seconds: float, event: Callable[[], object]) -> None:
        """Does something later."""
        self.at(self.now + seconds, event)

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

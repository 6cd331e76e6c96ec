"""Lines of the log that somebody outside could make come as often as he likes."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two lines of one kind.
SECONDS = 10.0


class Seldom:
    """Says of each kind of line whether it may be written now, and how many were left out."""

    def __init__(
        self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """No line was written yet.

        Args:
            seconds: between two lines of one kind.
            clock: seconds, never going back.
        """
        self._seconds = seconds
        self._clock = clock
        self._written: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def due(self, kind: str) -> str | None:
        """What to add to a line that may be written now: nothing, or how many there were of its
        kind; None if it is left out."""
        now = self._clock()
        many = self._left_out.get(kind, 0) + 1
        if now - self._written.get(kind, -self._seconds) < self._seconds:
            self._left_out[kind] = many
            return None
        self._written[kind] = now
        self._left_out[kind] = 0
        return f" ({many} since the last such line)" if many > 1 else ""

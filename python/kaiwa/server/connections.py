"""The connections of a server: why they are cut off, counted and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("kaiwa.server")

#: Seconds between lines of the log about the same thing: what a stranger does must not fill disks.
LOG_SECONDS = 10.0

_SAID = {
    "flood": "a client was cut off: far more websocket frames than a conversation needs",
}


class Connections:
    """Counts what is cut off, and says so now and then."""

    def __init__(self, count: Callable[[str], None] = lambda why: None) -> None:
        """Without connections.

        Args:
            count: told why a connection is cut off, for the metrics.
        """
        self._count = count
        self._logged: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def cut(self, why: str, client: tuple[str, int] | None) -> None:
        """A connection is cut off, or not taken."""
        self._count(why)
        now = time.monotonic()
        self._unsaid[why] = self._unsaid.get(why, 0) + 1
        if now - self._logged.get(why, -LOG_SECONDS) < LOG_SECONDS:
            return
        self._logged[why] = now
        many = self._unsaid.pop(why)
        more = f" ({many} since the last such line)" if many > 1 else ""
        log.info(_SAID[why] + more, extra={"address": client[0] if client else None})

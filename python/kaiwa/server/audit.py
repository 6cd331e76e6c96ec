"""The audit log: who called, when, by which protocol, for how long; never what was said.

One JSON object a line. It is written by a thread of its own, so that a slow disk or a reader that
stalls delays no call.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import queue
import sys
from datetime import datetime, timezone
from typing import Any

_log = logging.getLogger("kaiwa.server")

#: Lines that may wait to be written; more are lost, and counted.
MOST_WAITING = 10_000


class AuditLog:
    """Writes what happened to calls of callers who are known."""

    def __init__(self, target: str | None) -> None:
        """Begins.

        Args:
            target: a file, which is opened anew if it was moved or removed meanwhile; `-` is
                standard output; None writes nothing.
        """
        self._queue: queue.Queue[Any] = queue.Queue(MOST_WAITING)
        self._listener: logging.handlers.QueueListener | None = None
        self._lost = 0
        if target is not None:
            self._listener = logging.handlers.QueueListener(self._queue, _handler(target))
            self._listener.start()

    def write(self, event: str, **facts: Any) -> None:
        """Writes a line.

        Args:
            event: `begin`, `end` or `refused`.
            **facts: members of the object; those that are None or empty are left out.
        """
        if self._listener is None:
            return
        when = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when.replace("+00:00", "Z"), "event": event}
        line |= {name: fact for name, fact in facts.items() if fact not in (None, "")}
        if self._lost:
            line["lost_before"] = self._lost
        record = logging.makeLogRecord({"msg": json.dumps(line), "levelno": logging.INFO})
        try:
            self._queue.put_nowait(record)
            self._lost = 0
        except queue.Full:
            if not self._lost:
                _log.error("the audit log cannot be written fast enough; lines are lost")
            self._lost += 1

    def close(self) -> None:
        """Writes what waits, and ends."""
        if self._listener is not None:
            self._listener.stop()
            for handler in self._listener.handlers:
                with contextlib.suppress(OSError):  # what was left cannot be written either
                    handler.close()
            self._listener = None


def _handler(target: str) -> logging.Handler:
    """What writes lines to a target."""
    if target == "-":
        return _Standard(sys.stdout)
    return _File(target, encoding="utf-8", delay=True)


class _File(logging.handlers.WatchedFileHandler):
    """A file, opened anew if it was moved: programs that rotate logs need to tell nobody."""

    #: Whether the line before could not be written, and that was said.
    _failing = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Says that nothing can be written, once until something can again."""
        self._failed = True
        if not self._failing:
            _log.error("the audit log cannot be written: %s", sys.exc_info()[1])

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self._failed = False
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened
            self.handleError(record)
        self._failing = self._failed


class _Standard(logging.StreamHandler[Any]):
    """Standard output."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A closed output is nobody's concern here: the server goes on."""

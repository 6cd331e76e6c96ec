"""When keys were last used, in a file beside theirs: `keys.json.used`.

A file of its own: the file of keys is for operators to change, and may be mounted read-only.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from kaiwa.server.key_entry import moment

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)

_FORMAT = "kaiwa-key-uses"
#: Longer files are of another kind.
_MAX_BYTES = 16 << 20


class KeyUses:
    """Notes in memory when keys are used, and writes it down when told to."""

    def __init__(self, path: Path) -> None:
        """Nothing was used yet; `path` is the file, see `file_of`."""
        self.path = path
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()
        self._warned = False

    def note(self, key_id: str, now: float) -> None:
        """A key was used, at a time in seconds since 1970."""
        with self._lock:
            self._used[key_id] = now

    def write(self) -> None:
        """Writes down what was noted since the last time. May take as long as a disk does.

        Other servers may write to the same file. Where it cannot be written, that is logged once.
        """
        with self._lock:
            used, self._used = self._used, {}
        if not used:
            return
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(handle, "r+b") as file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX)
                known = _content(file)
                for key_id, now in used.items():
                    known[key_id] = max(known.get(key_id, ""), moment(now))
                file.seek(0)
                file.write(json.dumps({"format": _FORMAT, "uses": known}, indent=1).encode())
                file.truncate()
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.info(
                    "when keys are used is not kept: %s cannot be written (%s)",
                    self.path,
                    error.strerror or error,
                )


def file_of(keys: str | os.PathLike[str]) -> Path:
    """Where the uses of a file of keys are kept."""
    path = Path(keys)
    return path.with_name(f"{path.name}.used")


def read(path: Path) -> dict[str, str]:
    """When the keys with these ids were last used (UTC, ISO 8601); nothing if there is no such
    file, or a damaged one."""
    try:
        with path.open("rb") as file:
            return _content(file)
    except OSError:
        return {}


def _content(file: BinaryIO) -> dict[str, str]:
    """What an open file holds; nothing if it is damaged: it only tells, and counts for nothing."""
    try:
        found = json.loads(file.read(_MAX_BYTES))
        if found["format"] != _FORMAT:
            return {}
        return {key: when for key, when in found["uses"].items() if isinstance(when, str)}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}

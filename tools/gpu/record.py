"""What a stage has found so far, on disk after every step: a stage may be ended at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Record:
    """A JSON file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}

    def put(self, **values: Any) -> None:
        """Adds fields and writes the file."""
        self.values.update(values)
        self.save()

    def row(self, name: str, **values: Any) -> None:
        """Adds a row to the list of a name and writes the file."""
        self.values.setdefault(name, []).append(values)
        self.save()

    def save(self) -> None:
        """Writes the file whole, or leaves the one before."""
        write(self._path, self.values)


def write(path: Path, values: Any) -> None:
    """Writes JSON so that a reader never sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> Any:
    """What was written last, or an empty mapping."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

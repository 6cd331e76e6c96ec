"""Plain two-column tables and JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def show(rows: dict[str, Any], *, as_json: bool) -> None:
    """Prints `rows`, as one JSON object or as a table for people."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    lines = list(_lines(rows, ""))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        print(f"{name:<{width}}  {value}".rstrip())


def _lines(rows: dict[str, Any], indent: str) -> Iterable[tuple[str, str]]:
    """Names and values, one level of nesting indented."""
    for name, value in rows.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            yield label, ""
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list):
            yield label, ", ".join(map(str, value)) or "none"
        else:
            yield label, _text(value)


def _text(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)

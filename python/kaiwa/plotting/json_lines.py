"""Files with one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaiwa.errors import InputError

#: Characters of a line at most: what is longer is another kind of file.
LONGEST = 1 << 16


def read(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place in words and its object; empty lines are passed over.

    Raises:
        InputError: there is no such file, or a line holds no JSON object.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            number = 0
            while text := file.readline(LONGEST):
                number += 1
                where = f"line {number} of {path}"
                if text.strip():
                    yield where, _object(where, text)
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text; give a file of JSON lines") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from None


def _object(where: str, text: str) -> dict[str, Any]:
    """The object of a line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{where} is no JSON object; give a file of JSON lines")
    return value


def number(where: str, line: dict[str, Any], name: str) -> float:
    """A finite number of at least 0.

    Raises:
        InputError: the line has none of this name.
    """
    value = line.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    raise InputError(f'{where}: "{name}" is {value!r}; it has to be 0 or more')

"""One setting: its names, what it may be, and how a value of it is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiwa.errors import InputError
from kaiwa.model_options import Option
from kaiwa.server import origins
from kaiwa.server.redaction import redact

_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")


@dataclass(frozen=True)
class Setting(Option):
    """What is known about one setting: an option that is also a variable and a key of the file.

    Attributes:
        group: heading under which it is listed.
        low, high: bounds of a number, both included.
        secret: its value is never shown.
    """

    group: str = ""
    low: float = 0
    high: float = 1e9
    secret: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable: `KAIWA_MAX_SECONDS`."""
        return f"KAIWA_{self.name.upper()}"

    def read(self, value: Any, where: str) -> Any:
        """The value of the field from what a flag, a variable, a file or a caller gave.

        Args:
            value: text, or a value of the right type already.
            where: what to call its place in an error, such as `--port`.

        Raises:
            InputError: it is not a value that the setting can have.
        """
        if value is None and self.default is None:
            return None
        try:
            return _READERS[self.kind](self, value)
        except ValueError as error:
            shown = "the value" if self.secret else repr(redact(str(value)))
            raise InputError(f"{where}: {shown} is not {error}") from None


def _text(setting: Setting, value: Any) -> str:
    """A word or a path, as it is."""
    if setting.choices:
        if value not in setting.choices:
            raise ValueError(f"one of {', '.join(setting.choices)}")
    elif not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a text of one line")
    return str(value)


def _path(setting: Setting, value: Any) -> str:
    """The path of a file; `~` is the home folder."""
    text = _text(setting, str(value) if isinstance(value, Path) else value)
    if redact(text) != text:
        raise ValueError("the path of a file; give the file's name, not what it holds")
    return str(Path(text).expanduser())


def _flag(_: Setting, value: Any) -> bool:
    """Yes or no."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _YES + _NO:
        raise ValueError("true or false (1, 0, yes, no, on, off)")
    return word in _YES


def _number(setting: Setting, value: Any) -> float:
    """A number within the bounds."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not setting.low <= number <= setting.high:
        unit = f" {setting.unit}" if setting.unit else ""
        raise ValueError(f"a number from {setting.low:g} to {setting.high:g}{unit}")
    return number


def _whole(setting: Setting, value: Any) -> int:
    """A whole number within the bounds."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if type(number) is not int or not setting.low <= number <= setting.high:
        raise ValueError(f"a whole number from {setting.low:.0f} to {setting.high:.0f}")
    return number


def _origins(_: Setting, value: Any) -> tuple[str, ...]:
    """Origins, from a list or separated by commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(part, str) for part in given):
        raise ValueError("a list of origins")
    parts = [part.strip() for entry in given for part in entry.split(",")]
    found = []
    for part in filter(None, parts):
        entry = origins.normal_entry(part)
        if entry is None:
            raise ValueError(
                "a list of origins such as https://example.com or http://localhost:5173 "
                "(scheme, host and port only), or *"
            )
        found.append(entry)
    return tuple(dict.fromkeys(found))


def _hosts(_: Setting, value: Any) -> tuple[str, ...]:
    """Host names, from a list or separated by commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(part, str) for part in given):
        raise ValueError("a list of host names")
    found = []
    for part in filter(None, (part.strip() for entry in given for part in entry.split(","))):
        bare = f"[{part}]" if part.count(":") > 1 and "[" not in part else part
        here = ("*", None) if part == "*" else origins.split_host(bare)
        if here is None or here[1] is not None:
            raise ValueError("a list of host names such as kaiwa.example (without a port), or *")
        found.append(here[0])
    return tuple(dict.fromkeys(found))


_READERS: dict[str, Callable[[Setting, Any], Any]] = {
    "text": _text,
    "path": _path,
    "flag": _flag,
    "float": _number,
    "int": _whole,
    "port": _whole,
    "origins": _origins,
    "hosts": _hosts,
}

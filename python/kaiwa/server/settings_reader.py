"""Where settings come from: options, variables, and a file in TOML."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kaiwa.errors import InputError
from kaiwa.server.setting import Setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "KAIWA_CONFIG"

# Variables of Kaiwa that are no settings of the server.
_OF_OTHERS = ("KAIWA_CPU", "KAIWA_CUDA", "KAIWA_THREADS")

#: More than any sensible file has; guards against reading a weight file by mistake.
_MAX_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """An option for each setting, and `--config`.

    Values stay text: they are read together with those of variables and the file.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings in TOML, by their names with underscores (max_seconds = 600); options and "
        f"variables go before it (variable: {CONFIG_VARIABLE})",
    )
    groups: dict[str, Any] = {}
    for setting in settings:
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        options: dict[str, Any] = {"dest": setting.name, "default": None}
        if setting.kind == "flag":
            options |= {"action": "store_const", "const": not setting.default}
        elif setting.kind in ("origins", "hosts"):
            options |= {"action": "append", "metavar": setting.metavar}
        elif setting.choices:
            options["choices"] = setting.choices
        else:
            options["metavar"] = setting.metavar
        options["help"] = setting.description.replace("%", "%%")
        groups[setting.group].add_argument(setting.flag, **options)


def gather(
    settings: Iterable[Setting], args: argparse.Namespace | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The values that were given, each from its nearest source.

    Raises:
        InputError: a value is wrong (also one that another source goes before), the file cannot
            be read, or it has an unknown key.
    """
    known = tuple(settings)
    path = getattr(args, "config", None) or environ.get(CONFIG_VARIABLE)
    values = _from_file(known, path) if path else {}
    values |= _from_variables(known, environ)
    values |= _from_options(known, args)
    return values


def misspelt(settings: Iterable[Setting], environ: Mapping[str, str]) -> list[str]:
    """Warnings about variables that are not settings but are spelt much like one."""
    known = {setting.variable for setting in settings} | {CONFIG_VARIABLE, *_OF_OTHERS}
    pairs = [
        (name, difflib.get_close_matches(name, known, n=1, cutoff=0.85))
        for name in environ
        if name.startswith("KAIWA_") and name not in known
    ]
    return [f"{name} is no setting; did you mean {close[0]}?" for name, close in pairs if close]


def _from_options(settings: tuple[Setting, ...], args: argparse.Namespace | None) -> dict[str, Any]:
    """What was given on the command line."""
    given = {s: getattr(args, s.name, None) for s in settings}
    return {s.name: s.read(v, s.flag) for s, v in given.items() if v is not None}


def _from_variables(settings: tuple[Setting, ...], environ: Mapping[str, str]) -> dict[str, Any]:
    """What is in the environment."""
    given = {s: environ.get(s.variable, "").strip() for s in settings}
    return {
        s.name: s.read(v, s.variable)
        for s, v in given.items()
        if v and not _made_by_kubernetes(s, v)
    }


def _made_by_kubernetes(setting: Setting, value: str) -> bool:
    """Whether a variable is that of a service named `kaiwa`: KAIWA_PORT=tcp://10.0.0.1:8998."""
    return setting.kind == "port" and re.fullmatch(r"(tcp|udp)://[^ ]+:\d+", value) is not None


def _from_file(settings: tuple[Setting, ...], path: str) -> dict[str, Any]:
    """What is in the file."""
    table = _read_toml(Path(path).expanduser())
    known = {setting.name: setting for setting in settings}
    for name in table:
        if name not in known:
            raise InputError(f"{path} has the unknown key {name!r}; {_near(name, known)}")
    return {name: known[name].read(value, f"{name} in {path}") for name, value in table.items()}


def _near(name: str, known: Iterable[str]) -> str:
    """What might have been meant."""
    names = list(known)
    wanted = name.lower().replace("-", "_")
    close = [wanted] if wanted in names else difflib.get_close_matches(wanted, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(sorted(names))}"


def _read_toml(path: Path) -> dict[str, Any]:
    """A file of settings as a table.

    Raises:
        InputError: it cannot be read, is far too big, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the settings {path} cannot be read: {reason}; check --config") from None
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path} is over 1 MiB; give a file of settings in TOML with --config")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}; correct it there") from None

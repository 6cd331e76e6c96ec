"""`kaiwa key add`, `kaiwa key list` and `kaiwa key revoke`: who may call a server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from kaiwa.cli import options

VARIABLE = "KAIWA_KEYS"


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "key",
        help="who may call a server",
        description="Make, list and revoke keys. A server reads the file that it is given with "
        f"--keys or {VARIABLE}, no other, and sees changes while it runs.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    add: argparse.ArgumentParser = actions.add_parser(
        "add",
        help="make a key",
        description="Make a key and print it. The file keeps only its hash, so it cannot be shown "
        "again.",
    )
    add.add_argument("name", metavar="NAME", help="who it is for; shown in logs and metrics")
    add.add_argument(
        "--concurrency",
        type=options.positive,
        metavar="N",
        help="conversations at once (default: as many as the server has slots)",
    )
    add.add_argument(
        "--per-minute",
        type=options.positive,
        metavar="N",
        help="connections in any 60 seconds (default: any number)",
    )
    add.add_argument(
        "--max-seconds",
        type=options.positive_float,
        metavar="S",
        help="seconds of a conversation, never more than the server's (default: the server's)",
    )
    add.add_argument(
        "--expires",
        type=_moment,
        metavar="WHEN",
        help="from when on it counts no more: 90d, 12h, or a date such as 2030-01-31 (UTC; "
        "default: never)",
    )
    add.add_argument(
        "--protocol",
        action="append",
        metavar="NAME",
        help="allow calls by this wire protocol only; may be given more than once (default: by "
        "every one)",
    )
    add.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="allow calls with this model only, as GET /v1/models names it; may be given more "
        "than once (default: with every one)",
    )
    add.add_argument(
        "--operator", action="store_true", help="may see and end everybody's conversations"
    )
    add.set_defaults(run=run_add)
    show: argparse.ArgumentParser = actions.add_parser(
        "list",
        help="show who has a key",
        description="Show the names, limits and dates of all keys; the keys themselves are not "
        "known. When one was last used is what servers on this machine noted beside the file.",
    )
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=run_list)
    revoke: argparse.ArgumentParser = actions.add_parser(
        "revoke",
        help="make a key worth nothing",
        description="Make a key worth nothing, at once and for ever. Running servers end its "
        "conversations.",
    )
    revoke.add_argument("name", metavar="NAME", help="whose key")
    revoke.set_defaults(run=run_revoke)
    for action in (add, show, revoke):
        action.add_argument(
            "--file",
            metavar="FILE",
            help=f"file of keys (default: the variable {VARIABLE}, else kaiwa/keys.json in the "
            "folder of settings, ~/.config or XDG_CONFIG_HOME)",
        )
        options.add_output(action)


def run_add(args: argparse.Namespace) -> int:
    """Makes a key; see the parser for the arguments."""
    import time

    from kaiwa.server import key_edits
    from kaiwa.terminal import progress

    path = file_of(args)
    if path == default_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _, secret = key_edits.add(
        path,
        args.name,
        time.time(),
        concurrency=args.concurrency,
        per_minute=args.per_minute,
        max_seconds=args.max_seconds,
        operator=args.operator,
        expires=args.expires,
        protocols=tuple(args.protocol) if args.protocol else None,
        models=tuple(args.model) if args.model else None,
    )
    print(secret, flush=True)
    progress.summary(
        f"the key of {args.name} is in {path} as a hash; it is shown only this once. A server "
        f"takes it with `kaiwa serve --keys {path}`",
        quiet=args.quiet,
    )
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Shows all keys; see the parser for the arguments."""
    import json

    from kaiwa.server import key_uses
    from kaiwa.server.keys import read

    path = file_of(args)
    keys, uses = read(path), key_uses.read(key_uses.file_of(path))
    columns = (
        "name",
        "operator",
        "concurrency",
        "per_minute",
        "max_seconds",
        "protocols",
        "models",
        "created",
        "expires",
        "last_used",
        "revoked",
    )
    rows = [{"id": key.id, **{name: _fact(key, name, uses) for name in columns}} for key in keys]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    shown = [name for name in columns if name in columns[:5] or any(row[name] for row in rows)]
    lines = [[name.replace("_", " ") for name in shown]]
    lines += [[_cell(row[name]) for name in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _fact(key: Any, name: str, uses: dict[str, str]) -> Any:
    """A value of a column."""
    return uses.get(key.id) if name == "last_used" else getattr(key, name)


def _moment(text: str) -> float:
    """When a key expires, in seconds since 1970."""
    import re
    import time
    from datetime import datetime, timezone

    span = re.fullmatch(r"([1-9]\d{0,5})([dhm])", text)
    if span is not None:
        return time.time() + int(span[1]) * {"d": 86_400, "h": 3600, "m": 60}[span[2]]
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time; give a span such as 90d or 12h, or a date such as 2030-01-31"
    )


def run_revoke(args: argparse.Namespace) -> int:
    """Revokes a key; see the parser for the arguments."""
    import time

    from kaiwa.server import key_edits
    from kaiwa.terminal import progress

    path = file_of(args)
    key_edits.revoke(path, args.name, time.time())
    progress.summary(
        f"the key of {args.name} in {path} is worth nothing now; running servers end its "
        "conversations",
        quiet=args.quiet,
    )
    return 0


def file_of(args: argparse.Namespace) -> Path:
    """The file that `--file`, the variable, or neither names."""
    given = args.file or os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else default_file()


def default_file() -> Path:
    """The file of keys of whoever runs the program."""
    folder = os.environ.get("XDG_CONFIG_HOME") or ""
    base = Path(folder) if Path(folder).is_absolute() else Path("~/.config").expanduser()
    return base / "kaiwa" / "keys.json"


def _cell(value: Any) -> str:
    """A value in the table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(value) if isinstance(value, tuple) else str(value)

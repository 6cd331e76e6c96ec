"""Options of the commands that call a server."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from kaiwa import model_options
from kaiwa.cli import options

if TYPE_CHECKING:
    from kaiwa.client import ChatParams

#: Wire protocols of the client (`kaiwa.client.wires.WIRES`, which takes long to import).
PROTOCOLS = ("kyutai", "live", "realtime", "twilio")


def add_connection(
    parser: argparse.ArgumentParser, *, default: str | None = None, protocols: bool = False
) -> None:
    """Which server, and how audio travels.

    Args:
        parser: of the command.
        default: address without one given.
        protocols: the command has a choice of wire protocols.
    """
    what = "server: ws://host:port, https://host or host:port"
    if default is None:
        parser.add_argument("url", metavar="URL", help=what)
    else:
        parser.add_argument(
            "url", metavar="URL", nargs="?", help=f"{what} (default: {default}, if one runs there)"
        )
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--key",
        help="key of the server; without it the variable KAIWA_KEY counts, which other users of "
        "this machine cannot see",
    )
    group.add_argument(
        "--format",
        choices=("opus", "pcm"),
        help="how audio travels: Opus, or 16-bit PCM, which only Kaiwa's server takes "
        "(default: opus)",
    )
    if protocols:
        group.add_argument(
            "--protocol",
            choices=PROTOCOLS,
            default=PROTOCOLS[0],
            help="wire protocol: Kyutai's, OpenAI's Live or Realtime, or that of a phone call by "
            f"Twilio, with audio as by phone (default: {PROTOCOLS[0]})",
        )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How the server is asked to choose tokens."""
    group = parser.add_argument_group("sampling")
    for option in model_options.SAMPLING:
        shown = "random" if option.name == "seed" else "the server's"
        options.add(group, option, shown_default=shown)


def connection(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_connection` as arguments of `kaiwa.client.connect`."""
    from kaiwa.client.url import chat_url, is_local
    from kaiwa.terminal import progress

    key = args.key or os.environ.get("KAIWA_KEY") or None
    address = chat_url(args.url)
    if key and address.startswith("ws://") and not is_local(address):
        progress.warn("the key travels unencrypted; use a wss:// address if the server has one")
    protocol = {"protocol": args.protocol} if "protocol" in args else {}
    return {"url": args.url, "key": key, "format": args.format, **protocol}


def params(args: argparse.Namespace, **others: Any) -> ChatParams:
    """The options of `add_sampling` as query parameters."""
    from kaiwa.client import ChatParams

    return ChatParams(
        text_temperature=args.temp_text,
        audio_temperature=args.temp,
        text_topk=args.top_k_text,
        audio_topk=args.top_k,
        seed=args.seed,
        **others,
    )

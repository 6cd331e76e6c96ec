"""Options of the commands that call a server."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from kaiwa.cli import lm_options, options

if TYPE_CHECKING:
    from kaiwa.client import ChatParams


def add_connection(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Which server, and how audio travels."""
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
        default="opus",
        help="how audio travels: Opus, or 16-bit PCM, which only Kaiwa's server takes "
        "(default: opus)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How the server is asked to choose tokens."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--seed", type=options.not_negative, help="same seed, same answer (default: random)"
    )
    group.add_argument(
        "--temp",
        type=lm_options.temperature,
        metavar="T",
        help="temperature of the codebooks; 0 is greedy (default: the server's)",
    )
    group.add_argument(
        "--temp-text",
        type=lm_options.temperature,
        metavar="T",
        help="temperature of the text (default: the server's)",
    )
    group.add_argument(
        "--top-k",
        type=options.not_negative,
        metavar="K",
        help="candidates of a codebook's draw; 0 is all (default: the server's)",
    )
    group.add_argument(
        "--top-k-text",
        type=options.not_negative,
        metavar="K",
        help="candidates of the text's draw; 0 is all (default: the server's)",
    )


def connection(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_connection` as arguments of `kaiwa.client.connect`."""
    from kaiwa.cli import progress
    from kaiwa.client.url import chat_url, is_local

    key = args.key or os.environ.get("KAIWA_KEY") or None
    address = chat_url(args.url)
    if key and address.startswith("ws://") and not is_local(address):
        progress.warn("the key travels unencrypted; use a wss:// address if the server has one")
    return {"url": args.url, "key": key, "format": args.format}


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

"""`kaiwa bench mimi`: speed here and now, beside other implementations in the same run."""

from __future__ import annotations

import argparse
from typing import Any

from kaiwa.cli import options


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure speed",
        description="Measure speed on this machine. Compare ratios of one run, not times of two.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", dest="kind", required=True)
    mimi: argparse.ArgumentParser = kinds.add_parser(
        "mimi",
        help="the Mimi codec",
        description="Time Mimi frame by frame in streams and on a whole file; the same work "
        "through rustymimi and through moshi (PyTorch), where they are installed, in turns.",
    )
    mimi.add_argument(
        "--slots",
        type=options.positive_list,
        default=[1, 4, 8, 16],
        metavar="N,N,...",
        help="streams in a batch, one or more numbers; 1 is always measured (default: 1,4,8,16)",
    )
    mimi.add_argument(
        "--frames",
        type=options.positive,
        default=40,
        help="frames of 80 ms in a round, up to 125 (default: 40)",
    )
    mimi.add_argument(
        "--rounds", type=options.positive, default=5, help="rounds of turns (default: 5)"
    )
    mimi.add_argument(
        "--file-seconds",
        type=options.positive_float,
        default=60.0,
        metavar="S",
        help="length of the file coded at once (default: 60)",
    )
    mimi.add_argument(
        "--num-codebooks", type=options.positive, default=8, metavar="K", help="(default: 8)"
    )
    mimi.add_argument(
        "--peers",
        choices=("auto", "none"),
        default="auto",
        help="auto: every peer that can be imported (default: auto)",
    )
    mimi.add_argument("--json", action="store_true", help="print JSON")
    options.add_model(mimi)
    options.add_output(mimi)
    mimi.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures; see the parser for the arguments."""
    from kaiwa.bench import mimi

    return mimi.command(args)

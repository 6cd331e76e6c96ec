"""The whole parser: every command with its options. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from kaiwa.cli import (
    bench,
    chat,
    client,
    convert,
    decode,
    doctor,
    encode,
    info,
    key,
    loadtest,
    plan,
    plot,
    run,
    serve,
    synth,
    transcribe,
)

COMMANDS = (
    run,
    transcribe,
    serve,
    chat,
    client,
    loadtest,
    plan,
    key,
    encode,
    decode,
    plot,
    info,
    convert,
    doctor,
    synth,
    bench,
)


class Parser(argparse.ArgumentParser):
    """Usage errors on one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Prints `kaiwa: error: ...` and where to find help."""
        self.exit(2, f"kaiwa: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version; reads it only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from kaiwa import __version__

        print(f"kaiwa {__version__}")
        parser.exit(0)


def build() -> Parser:
    """The parser of the program."""
    parser = Parser(
        prog="kaiwa",
        description="Full-duplex speech models: Moshi's language model and the Mimi codec.",
        epilog="Run `kaiwa COMMAND --help` for the options of a command.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=Parser
    )
    for command in COMMANDS:
        command.add_parser(commands)
    return parser

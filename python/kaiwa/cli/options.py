"""Options that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from kaiwa import model_options
from kaiwa.model_options import Option

#: What `encode` and `decode` use if no codec is named.
DEMO_CODEC = "the small demo codec that comes with Kaiwa (demo)"


def add(group: argparse._ActionsContainer, option: Option, **words: Any) -> None:
    """Adds an option that is declared in `kaiwa.model_options`; `words` are the facts that are
    different for this command, such as `shown_default`."""
    option = dataclasses.replace(option, **words)
    shown: dict[str, Any] = {"choices": option.choices} if option.choices else {}
    group.add_argument(
        option.flag,
        type=_TYPES[option.kind],
        default=option.default,
        metavar=option.metavar or None,
        help=option.description.replace("%", "%%"),
        **shown,
    )


def add_model(parser: argparse.ArgumentParser, *, otherwise: str = DEMO_CODEC) -> None:
    """Which codec to load, and how; `otherwise` says what counts if none is named."""
    group = parser.add_argument_group("model")
    add(
        group,
        model_options.option("model"),
        help="Mimi's weights: a Hugging Face repository (kyutai/mimi), a folder, or a .safetensors "
        "file",
        shown_default=f"the variable KAIWA_MIMI, else {otherwise}",
    )
    add(group, model_options.option("revision"))
    add(group, model_options.option("device"))
    add(
        group,
        model_options.option("dtype"),
        default="float32",
        help="how weights are held; float32 is exact, bfloat16 takes half the memory",
        shown_default="",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """How much a command says."""
    group = parser.add_argument_group("messages")
    group.add_argument("--quiet", action="store_true", help="no progress and no summary")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_timing(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Where to write what each frame took, in milliseconds called `name`."""
    parser.add_argument(
        "--timing",
        metavar="FILE",
        help=f'also write what each frame took: one JSON object a line, {{"t": seconds, "{name}": '
        f"milliseconds}}, {meaning}",
    )


def check_side_files(args: argparse.Namespace) -> None:
    """Refuses a file of text or times (`--text`, `--timing`) that is one of the audio files, too,
    or each other.

    Raises:
        InputError: it is one.
    """
    from pathlib import Path

    from kaiwa._streams import STANDARD
    from kaiwa.errors import InputError

    def same(one: str, other: str) -> bool:
        if STANDARD in (one, other):
            return one == other
        return Path(one).resolve() == Path(other).resolve()

    if args.text and args.timing and same(args.text, args.timing):
        raise InputError(f"{args.text} is for the text; name another file for the times")
    for path, what in ((args.text, "text"), (args.timing, "times")):
        # The input is read, the others written: standard input is none of them.
        audio = [args.output] if path == STANDARD else [args.output, args.input]
        if path and any(same(path, name) for name in audio):
            raise InputError(f"{path} is also the audio file; name another file for the {what}")


def check_place(output: str) -> None:
    """Refuses standard output where a folder, or a file of many gigabytes, is written.

    Raises:
        InputError: the output is `-`.
    """
    from kaiwa._streams import STANDARD
    from kaiwa.errors import InputError

    if output == STANDARD:
        raise InputError(
            "- is standard output, which cannot be written here; name a file or folder"
        )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def not_negative(text: str) -> int:
    """A whole number of at least 0."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def positive_list(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return [positive(part) for part in text.split(",")]


def some_of(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Reads some of the choices, separated by commas."""

    def read(text: str) -> list[str]:
        parts = text.split(",")
        if not set(parts) <= set(choices):
            raise argparse.ArgumentTypeError(f"{text!r} is not some of {', '.join(choices)}")
        return parts

    return read


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def from_zero(text: str, limit: float = 1e9) -> float:
    """A finite number of at least 0, below `limit`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < limit:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def temperature(text: str) -> float:
    """A finite number of at least 0."""
    return from_zero(text, 1e6)


def _whole(text: str) -> int:
    """An integer, or a usage error."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


#: How the text of an option becomes its value, by the option's kind.
_TYPES: dict[str, Callable[[str], Any]] = {
    "text": str,
    "path": str,
    "int": not_negative,
    "float": temperature,
}

"""Options that several commands share."""

from __future__ import annotations

import argparse

#: What `encode` and `decode` use if no codec is named.
DEMO_CODEC = "the small demo codec that comes with Kaiwa (demo)"


def add_model(parser: argparse.ArgumentParser, *, otherwise: str = DEMO_CODEC) -> None:
    """Which codec to load, and how; `otherwise` says what counts if none is named."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="SOURCE",
        help="Mimi's weights: a Hugging Face repository (kyutai/mimi), a folder, or a "
        ".safetensors file; without it the variable KAIWA_MIMI counts, and without both "
        + otherwise,
    )
    group.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit, if the model is a repository"
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or metal (default: auto)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="how weights are held; float32 is exact, bfloat16 takes half the memory "
        "(default: float32)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """How much a command says."""
    group = parser.add_argument_group("messages")
    group.add_argument("--quiet", action="store_true", help="no progress and no summary")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


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


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _whole(text: str) -> int:
    """An integer, or a usage error."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None

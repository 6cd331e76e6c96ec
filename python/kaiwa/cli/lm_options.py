"""Options of the commands that use a language model."""

from __future__ import annotations

import argparse
import os
from typing import Any

from kaiwa import demo
from kaiwa._choices import DTYPES, KV_DTYPES, QUANTIZE
from kaiwa.cli import options, progress


def add_source(parser: argparse.ArgumentParser) -> None:
    """Which model to load, and how."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="SOURCE",
        help="language model: a Hugging Face repository (kyutai/moshika-candle-q8), a folder, or a "
        "file; without it the variable KAIWA_MODEL counts, and without both the small demo model "
        "that comes with Kaiwa (demo) answers",
    )
    group.add_argument("--mimi", metavar="SOURCE", help="codec (default: the one beside the model)")
    group.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="SentencePiece model (default: the one beside the model)",
    )
    group.add_argument("--lora", metavar="SOURCE", help="adapter of moshi-finetune, merged")
    group.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit, if the model is a repository"
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or metal (default: auto)"
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dequantise to this type (default: the file's own form)",
    )
    group.add_argument(
        "--quantize", choices=QUANTIZE, help="round matrices while loading (default: not)"
    )
    group.add_argument(
        "--kv-dtype",
        choices=KV_DTYPES,
        help="storage of keys and values (default: bfloat16, or float32 with --dtype float32)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--seed", type=options.not_negative, default=0, help="same seed, same answer (default: 0)"
    )
    for name, what, usual in (
        ("--temp", "temperature of the codebooks; 0 is greedy", "0.8"),
        ("--temp-text", "temperature of the text", "0.7"),
    ):
        group.add_argument(
            name,
            type=temperature,
            metavar="T",
            help=f"{what} (default: the model's, else {usual})",
        )
    for name, what, usual in (
        ("--top-k", "candidates of a codebook's draw", "250"),
        ("--top-k-text", "candidates of the text's draw", "25"),
    ):
        group.add_argument(
            name,
            type=options.not_negative,
            metavar="K",
            help=f"{what}; 0 is all (default: the model's, else {usual})",
        )


def source_of(args: argparse.Namespace) -> str:
    """The model's source from `--model` or the environment; the demo model if neither names one,
    which is said."""
    source = args.model or os.environ.get("KAIWA_MODEL")
    if not source:
        progress.summary(demo.HINT, quiet=args.quiet)
        return demo.SOURCE
    return str(source)


def loading(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_source` as arguments of `Duplex.from_pretrained`."""
    names = ("mimi", "tokenizer", "lora", "revision", "device", "dtype", "quantize", "kv_dtype")
    return {name: getattr(args, name) for name in names}


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_sampling` as arguments of `Duplex.from_pretrained`."""
    return {
        name: getattr(args, name) for name in ("seed", "temp", "temp_text", "top_k", "top_k_text")
    }


def temperature(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value

"""`kaiwa synth mimi OUT`, `kaiwa synth moshi OUT`: random checkpoints at real sizes."""

from __future__ import annotations

import argparse
from typing import Any

from kaiwa import _native
from kaiwa.cli import options
from kaiwa.cli.convert import FORMATS


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "synth",
        help="random checkpoints for tests and benches",
        description="Write a random checkpoint that loads and runs like a released one; what it "
        "decodes to is noise, not speech.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", dest="kind", required=True)
    mimi: argparse.ArgumentParser = kinds.add_parser(
        "mimi", help="the Mimi codec", description="Write a random checkpoint of the Mimi codec."
    )
    mimi.add_argument(
        "output", metavar="OUT", help=".safetensors file, or folder for weights and config.json"
    )
    mimi.add_argument(
        "--seed", type=options.not_negative, default=0, help="same seed, same model (default: 0)"
    )
    mimi.add_argument(
        "--size",
        choices=("full", "small"),
        default="full",
        help="full: the released sizes, 385 MB in f32; small: for tests (default: full)",
    )
    mimi.add_argument(
        "--layout",
        choices=("kyutai", "kyutai-current", "hf"),
        default="kyutai",
        help="naming of the tensors: as released, as in the current PyTorch package, or as in "
        "transformers (default: kyutai)",
    )
    mimi.add_argument(
        "--dtype", choices=("f32", "bf16", "f16"), default="f32", help="type (default: f32)"
    )
    mimi.add_argument(
        "--codebooks",
        type=options.positive,
        metavar="N",
        help="codebooks in the file (default: 32, small: 12)",
    )
    options.add_output(mimi)
    mimi.set_defaults(run=run)
    moshi: argparse.ArgumentParser = kinds.add_parser(
        "moshi",
        help="the language model",
        description="Write a random language model into a folder, with a codec and a tokenizer "
        "that fit: everything that `kaiwa run` needs.",
    )
    moshi.add_argument("output", metavar="OUT", help="folder to write to")
    moshi.add_argument(
        "--size",
        choices=_native.LM_SIZES,
        default="tiny",
        help="7b has the released sizes (default: tiny)",
    )
    moshi.add_argument(
        "--format",
        choices=FORMATS,
        default="pytorch-bf16",
        help="format of the weights (default: pytorch-bf16)",
    )
    moshi.add_argument(
        "--seed", type=options.not_negative, default=0, help="same seed, same model (default: 0)"
    )
    moshi.add_argument("--no-mimi", action="store_true", help="write no codec")
    moshi.add_argument("--no-tokenizer", action="store_true", help="write no tokenizer")
    options.add_output(moshi)
    moshi.set_defaults(run=run_moshi)


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint; see the parser for the arguments."""
    import time

    from kaiwa.synth import write_mimi
    from kaiwa.terminal import progress

    options.check_place(args.output)
    started = time.perf_counter()
    with progress.bar("writing", None, quiet=args.quiet):
        report = write_mimi(
            args.output,
            seed=args.seed,
            size=args.size,
            layout=args.layout,
            dtype=args.dtype,
            num_codebooks=args.codebooks,
        )
    elapsed = time.perf_counter() - started
    size = report.weights.stat().st_size
    low = min(report.entropy_bits)
    progress.summary(
        f"{report.weights}: {report.parameters:,} parameters, {size / 1e6:.1f} MB, "
        f"codes of at least {low:.1f} bits of entropy, {elapsed:.1f} s",
        quiet=args.quiet,
    )
    return 0


def run_moshi(args: argparse.Namespace) -> int:
    """Writes the model; see the parser for the arguments."""
    import time

    from kaiwa.synth import write_moshi
    from kaiwa.terminal import progress

    options.check_place(args.output)
    started = time.perf_counter()
    with progress.share("writing", quiet=args.quiet) as update:
        path = write_moshi(
            args.output,
            size=args.size,
            format=args.format,
            seed=args.seed,
            mimi=not args.no_mimi,
            tokenizer=not args.no_tokenizer,
            progress=update,
        )
    elapsed = time.perf_counter() - started
    progress.summary(
        f"{path}: random {args.size} model as {args.format}, "
        f"{path.stat().st_size / 1e6:.1f} MB, {elapsed:.1f} s",
        quiet=args.quiet,
    )
    return 0

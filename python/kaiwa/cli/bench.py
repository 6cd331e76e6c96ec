"""`kaiwa bench`: speed here and now, beside other implementations in the same run, and what
quantisation costs."""

from __future__ import annotations

import argparse
from typing import Any

from kaiwa import _native, model_options
from kaiwa.cli import options
from kaiwa.cli.chat_options import PROTOCOLS
from kaiwa.load_options import KV_DTYPES, QUANTIZE


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
    _add_plot(mimi)
    options.add_model(mimi, otherwise="random weights of the released size")
    options.add_output(mimi)
    mimi.set_defaults(run=run)
    _add_lm(kinds)
    _add_quant(kinds)
    _add_serve(kinds)


def _add_lm(kinds: Any) -> None:
    """The language model's speed."""
    lm: argparse.ArgumentParser = kinds.add_parser(
        "lm",
        help="the language model",
        description="Time steps of the language model, on the processor against the machine's read "
        "bandwidth: by kind of weights, slots and length of history; and against builds of the "
        "published Rust crate (scripts/build-peers) on the same weights, in turns.",
    )
    lm.add_argument(
        "--size",
        default="300m",
        metavar="SIZE",
        help=f"random weights of size {', '.join(_native.LM_SIZES)} (stt: speech to text), "
        "or a folder or file with a model (default: 300m)",
    )
    lm.add_argument(
        "--formats",
        default="int8,int4",
        metavar="KIND,...",
        help="how weights are held: int8, int4, bf16, float32 (default: int8,int4)",
    )
    lm.add_argument(
        "--slots",
        type=options.positive_list,
        default=[1, 8],
        metavar="N,N,...",
        help="conversations in a batch; 1 is always measured (default: 1,8)",
    )
    lm.add_argument(
        "--steps", type=options.positive, default=20, help="timed steps in a round (default: 20)"
    )
    lm.add_argument(
        "--rounds", type=options.positive, default=5, help="rounds of turns (default: 5)"
    )
    lm.add_argument(
        "--window",
        choices=("short", "full", "both"),
        default="both",
        help="history at the timed steps: none, as long as the model can see, or both in turn "
        "(default: both)",
    )
    lm.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="a program that scripts/build-peers built; may be given several times",
    )
    lm.add_argument(
        "--kv",
        choices=KV_DTYPES,
        help="how keys and values are held (default: the model's)",
    )
    _add_device(lm)
    lm.add_argument("--json", action="store_true", help="print JSON")
    _add_plot(lm)
    options.add_output(lm)
    lm.set_defaults(run=run_lm)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    """A picture of the figures."""
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="also draw the figures to a .png or .svg file; needs matplotlib: pip install "
        "'kaiwa[plot]'",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    """Where the model runs: on the processor, unless it is said, so that figures are comparable."""
    options.add(
        parser,
        model_options.option("device"),
        default="cpu",
        help="cpu, cuda, cuda:N, metal, or candle-cpu, which is the way of GPUs tried on the "
        "processor",
    )


def _add_quant(kinds: Any) -> None:
    """What fewer bits do to the logits."""
    quant: argparse.ArgumentParser = kinds.add_parser(
        "quant",
        help="what quantisation does to the logits",
        description="Compare the language model's logits with its weights held as int8, int4 and, "
        "if there is memory, float32 with those of bf16, led along the tokens of bf16.",
    )
    quant.add_argument("source", metavar="SOURCE", help="a folder, file or repository")
    quant.add_argument(
        "--steps", type=options.positive, default=100, help="steps to compare (default: 100)"
    )
    quant.add_argument("--json", action="store_true", help="print JSON")
    options.add_output(quant)
    quant.set_defaults(run=run_quant)


def _add_serve(kinds: Any) -> None:
    """The server's own cost."""
    serve: argparse.ArgumentParser = kinds.add_parser(
        "serve",
        help="the server",
        description="Start servers on this machine and call them: without a model (Opus, "
        "websockets and Python alone), and with a model, beside what codec and language model "
        "would allow alone. Without options that is a random tiny language model with the "
        "full-size codec, which shows what the server costs; to load a GPU name a larger one.",
    )
    serve.add_argument(
        "--calls",
        type=options.positive_list,
        default=[50, 100],
        metavar="N,N,...",
        help="calls at once without a model (default: 50,100)",
    )
    serve.add_argument(
        "--protocol",
        type=options.some_of(PROTOCOLS),
        default=[PROTOCOLS[0]],
        metavar="NAME,NAME,...",
        help=f"wire protocols of the calls without a model: {', '.join(PROTOCOLS)} "
        f"(default: {PROTOCOLS[0]})",
    )
    serve.add_argument(
        "--most",
        type=options.positive,
        default=64,
        metavar="N",
        help="calls with a model to look at, at most (default: 64)",
    )
    serve.add_argument(
        "--seconds",
        type=options.positive_float,
        default=10.0,
        metavar="S",
        help="length of a call (default: 10)",
    )
    serve.add_argument(
        "--processes",
        type=options.positive,
        default=1,
        metavar="P",
        help="processes that call, without a model (default: 1)",
    )
    serve.add_argument(
        "--model",
        default="synth:tiny",
        metavar="SOURCE",
        help="language model, as for kaiwa serve: synth:7b is random weights of the released size "
        "(default: synth:tiny)",
    )
    serve.add_argument(
        "--mimi",
        default="synth:full",
        metavar="SOURCE",
        help="codec: synth:full, synth:small or a source (default: synth:full)",
    )
    serve.add_argument(
        "--quantize",
        choices=QUANTIZE,
        help="round the model's matrices while loading (default: not)",
    )
    _add_device(serve)
    serve.add_argument("--json", action="store_true", help="print JSON")
    _add_plot(serve)
    options.add_output(serve)
    serve.set_defaults(run=run_serve)


def run(args: argparse.Namespace) -> int:
    """Measures; see the parser for the arguments."""
    from kaiwa.bench import mimi

    return mimi.command(args)


def run_lm(args: argparse.Namespace) -> int:
    """Measures the language model; see the parser for the arguments."""
    from kaiwa.bench import lm

    return lm.command(args)


def run_quant(args: argparse.Namespace) -> int:
    """Compares kinds of weights; see the parser for the arguments."""
    from kaiwa.bench import quant

    return quant.command(args)


def run_serve(args: argparse.Namespace) -> int:
    """Measures the server; see the parser for the arguments."""
    from kaiwa.bench import serve

    return serve.command(args)

"""`kaiwa decode IN OUT`: a file of codes to an audio file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kaiwa.cli import options

if TYPE_CHECKING:
    from kaiwa import Mimi
    from kaiwa.codes_file import CodesInfo

#: Frames given to the codec at once (2.56 s).
CHUNK_FRAMES = 32


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "decode",
        help="codes to audio file",
        description="Decode a file of codes to an audio file; the format follows from the "
        "ending: .wav, .flac, .mp3, .ogg, .oga (Vorbis) or .opus.",
    )
    parser.add_argument(
        "input", metavar="IN", help="file of codes that `kaiwa encode` wrote; - is standard input"
    )
    parser.add_argument(
        "output", metavar="OUT", help="audio file to write; - is standard output, as wav"
    )
    parser.add_argument(
        "--num-codebooks",
        type=options.positive,
        metavar="K",
        help="use only the first K codebooks of the file (default: all)",
    )
    parser.add_argument(
        "--rate",
        type=options.positive,
        metavar="HZ",
        help="sample rate of the audio file (default: the model's, 24000)",
    )
    parser.add_argument(
        "--sample-format",
        choices=("int16", "int24", "float32"),
        help="of .wav (any) and .flac (int16, int24) files (default: int16)",
    )
    options.add_model(parser)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decodes; see the parser for the arguments."""
    import time

    import numpy as np

    from kaiwa import Resampler, codes_file
    from kaiwa._atomic import replacing
    from kaiwa.audio_files import AudioWriter, check_length, output_format
    from kaiwa.cli import model
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    codes, info = codes_file.read(args.input)
    check_origin(args.input, info, model.named_source(args))
    books = args.num_codebooks or info.num_codebooks
    if books > info.num_codebooks:
        raise InputError(
            f"{args.input} has {info.num_codebooks} codebooks, {books} were asked for; "
            "leave --num-codebooks out"
        )
    rate = args.rate or info.sample_rate
    output_format(args.output, rate, args.sample_format)
    check_length(args.output, -(-info.num_samples * rate // info.sample_rate), args.sample_format)
    with replacing(args.output, reading=args.input, streamed=".wav") as temporary:
        mimi = model.load(args, 1)
        check_fit(args.input, info, books, mimi)
        stream = mimi.stream(1, window="whole")
        resampler = None if rate == info.sample_rate else Resampler(info.sample_rate, rate)
        started = time.perf_counter()
        left = info.num_samples
        with (
            progress.bar("decoding", info.frames, quiet=args.quiet) as advance,
            AudioWriter(temporary, rate, args.sample_format) as writer,
        ):
            for start in range(0, info.frames, CHUNK_FRAMES):
                piece = np.ascontiguousarray(codes[None, :books, start : start + CHUNK_FRAMES])
                pcm = stream.decode(piece)[0, 0, :left]
                left -= len(pcm)
                writer.write(pcm if resampler is None else resampler.process(pcm))
                advance(piece.shape[2])
            if resampler is not None:
                writer.write(resampler.finish())
        elapsed = time.perf_counter() - started
    if writer.clipped:
        progress.warn(f"{writer.clipped} samples outside [-1, 1] were clipped in {args.output}")
    progress.summary(
        f"{args.output}: {info.seconds:.2f} s of audio from {info.frames} frames of {books} codes, "
        f"{progress.speed(info.seconds, elapsed)}",
        quiet=args.quiet,
    )
    return 0


def check_origin(path: str, info: CodesInfo, named: str | None) -> None:
    """Raises InputError if the demo codec stands in for a model that nobody named, and the file
    says that another codec wrote it."""
    from kaiwa import demo
    from kaiwa.errors import InputError

    if named is None and info.model and not demo.is_demo(info.model):
        raise InputError(
            f"{path} was written by {info.model!r}, and the demo codec cannot decode that; pass "
            "--model with the codec that encoded it"
        )


def check_fit(path: str, info: CodesInfo, books: int, mimi: Mimi) -> None:
    """Raises InputError unless codes described by `info` can be decoded by `mimi`."""
    from kaiwa.errors import InputError

    for what, given, wanted in (
        ("cardinality", info.cardinality, mimi.cardinality),
        ("sample rate", info.sample_rate, mimi.sample_rate),
        ("frame size", info.frame_size, mimi.frame_size),
    ):
        if given != wanted:
            by = f" by {info.model!r}" if info.model else ""
            raise InputError(
                f"{path} was written{by} with {what} {given}, the model has {wanted}; "
                "decode with the model that encoded it"
            )
    if books > mimi.max_codebooks:
        raise InputError(
            f"{path} has {books} codebooks, the model {mimi.max_codebooks}; "
            f"pass --num-codebooks {mimi.max_codebooks}"
        )

"""`kaiwa encode IN OUT`: an audio file to a file of codes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kaiwa.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from kaiwa.audio_files import AudioReader

#: Frames given to the codec at once (2.56 s).
CHUNK_FRAMES = 32


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "encode",
        help="audio file to codes",
        description="Encode an audio file (wav, flac, mp3, ogg, opus; any rate; channels are "
        "averaged) to a file of codes. Long files are read in blocks.",
    )
    parser.add_argument("input", metavar="IN", help="audio file; - is standard input")
    parser.add_argument(
        "output", metavar="OUT", help="file of codes to write (.safetensors); - is standard output"
    )
    parser.add_argument(
        "--num-codebooks",
        type=options.positive,
        default=8,
        metavar="K",
        help="codebooks to write: more sound better and take more space (default: 8)",
    )
    options.add_model(parser)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encodes; see the parser for the arguments."""
    import time

    import numpy as np

    from kaiwa import codes_file
    from kaiwa._atomic import replacing
    from kaiwa.audio_files import AudioReader
    from kaiwa.cli import model
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    with (
        AudioReader(args.input, progress.warn) as reader,
        replacing(args.output, reading=args.input, streamed=".safetensors") as temporary,
    ):
        mimi = model.load(args, args.num_codebooks)
        stream = mimi.stream(1, window="whole")
        size, rate = mimi.frame_size, mimi.sample_rate
        started = time.perf_counter()
        columns, samples = [], 0
        total = reader.frames_at(rate, size)
        with progress.bar("encoding", total, quiet=args.quiet) as advance:
            for chunk in frames_of(reader, rate, CHUNK_FRAMES * size):
                samples += len(chunk)
                padded = np.zeros(-(-len(chunk) // size) * size, np.float32)
                padded[: len(chunk)] = chunk
                codes = stream.encode(padded[None, None, :])[0]
                columns.append(codes.astype(np.uint16))
                advance(codes.shape[1])
        if not columns:
            raise InputError(f"{args.input} holds no audio; give a file with at least one sample")
        info = codes_file.CodesInfo(
            sample_rate=rate,
            frame_rate=mimi.frame_rate,
            frame_size=size,
            num_samples=samples,
            num_codebooks=args.num_codebooks,
            cardinality=mimi.cardinality,
            model=model.source_of(args),
        )
        codes_file.write(temporary, np.concatenate(columns, axis=1), info)
        elapsed = time.perf_counter() - started
    progress.summary(
        f"{args.output}: {info.seconds:.2f} s of audio, {info.frames} frames of "
        f"{info.num_codebooks} codes, {progress.speed(info.seconds, elapsed)}",
        quiet=args.quiet,
    )
    return 0


def frames_of(reader: AudioReader, rate: int, samples: int) -> Iterator[NDArray[np.float32]]:
    """The file at `rate` Hz in pieces of `samples` samples; only the last may be shorter."""
    import numpy as np

    from kaiwa import Resampler

    resampler = None if reader.sample_rate == rate else Resampler(reader.sample_rate, rate)
    waiting: list[NDArray[np.float32]] = []
    count = 0

    def blocks() -> Iterator[NDArray[np.float32]]:
        for block in reader.blocks():
            yield block if resampler is None else resampler.process(block)
        if resampler is not None:
            yield resampler.finish()

    for block in blocks():
        waiting.append(block)
        count += len(block)
        if count < samples:
            continue
        ready = np.concatenate(waiting)
        whole = count // samples * samples
        for start in range(0, whole, samples):
            yield ready[start : start + samples]
        waiting, count = [ready[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)

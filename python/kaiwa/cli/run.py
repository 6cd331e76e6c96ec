"""`kaiwa run IN OUT`: a conversation with an audio file."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any, TextIO

from kaiwa import model_options
from kaiwa.cli import lm_options, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaiwa import Duplex


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="a conversation with an audio file",
        description="Let the model listen to an audio file and write what it says meanwhile to "
        "another of the same length and clock: what is at second 3 of OUT was said while second 3 "
        "of IN was heard.",
    )
    parser.add_argument("input", metavar="IN", help="audio file of the caller")
    parser.add_argument("output", metavar="OUT", help="audio file to write (.wav, .flac, ...)")
    parser.add_argument(
        "--text",
        metavar="FILE",
        help='also write what is said as text: one JSON object a line, {"t": seconds, "text": '
        'piece}; without a tokenizer {"t": seconds, "token": id}',
    )
    options.add_timing(
        parser, "step_ms", "for codec and model together; `kaiwa plot --timing` draws them"
    )
    lm_options.add_source(parser)
    lm_options.add_sampling(parser)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converses; see the parser for the arguments."""
    import json
    import time

    from kaiwa import Duplex
    from kaiwa._atomic import replacing
    from kaiwa.audio_files import AudioReader, AudioWriter, check_length, output_format
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    source = lm_options.source_of(args)
    options.check_side_files(args)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(AudioReader(args.input, progress.warn))
        output_format(args.output, 24_000, None)
        temporary = stack.enter_context(replacing(args.output, reading=args.input, streamed=".wav"))
        text_file, timing_file = (
            _side_file(stack, path, args) for path in (args.text, args.timing)
        )
        started = time.perf_counter()
        with progress.share("loading", quiet=args.quiet) as update:
            duplex = Duplex.from_pretrained(
                source,
                prime=True,
                progress=update,
                **model_options.loading(args),
                **lm_options.sampling(args),
            )
        loaded = time.perf_counter()
        if args.text and duplex.tokenizer is None:
            progress.warn("no tokenizer beside the model: the text file gets token numbers")
        rate = duplex.sample_rate
        expected = reader.frames_at(rate)
        check_length(args.output, expected, None)
        frames = reader.frames_at(rate, duplex.frame_size)
        began = time.perf_counter()
        samples = 0
        with (
            progress.bar("conversing", frames, quiet=args.quiet) as advance,
            AudioWriter(temporary, rate, None) as writer,
        ):
            for pcm, t, piece, token, took in converse(duplex, reader):
                samples += len(pcm)
                writer.write(pcm)
                if text_file is not None:
                    write_text(text_file, t, piece, token, duplex)
                if timing_file is not None:
                    line = {"t": round(t, 3), "step_ms": round(1e3 * took, 3)}
                    timing_file.write(json.dumps(line) + "\n")
                advance(1)
        if samples == 0:
            raise InputError(f"{args.input} holds no audio; give a file with at least one sample")
        ended = time.perf_counter()
    seconds, elapsed = samples / rate, ended - began
    stages = duplex.stage_seconds
    count = max(1, -(-samples // duplex.frame_size))
    other = elapsed - sum(stages.values())
    parts = ", ".join(
        f"{name.replace('_', ' ')} {value / count * 1e3:.1f}"
        for name, value in {**stages, "files": other}.items()
    )
    if writer.clipped:
        progress.warn(f"{writer.clipped} samples outside [-1, 1] were clipped in {args.output}")
    progress.summary(
        f"{args.output}: {seconds:.2f} s in {elapsed:.2f} s, real-time factor "
        f"{elapsed / seconds:.2f} ({progress.speed(seconds, elapsed)}); milliseconds per frame of "
        f"80: {parts}; loaded in {loaded - started:.1f} s",
        quiet=args.quiet,
    )
    return 0


def _side_file(
    stack: contextlib.ExitStack, path: str | None, args: argparse.Namespace
) -> TextIO | None:
    """A file of lines beside the audio, open for writing until the stack ends."""
    from kaiwa._atomic import replacing

    if not path:
        return None
    temporary = stack.enter_context(replacing(path, reading=args.input, streamed=".jsonl"))
    return stack.enter_context(temporary.open("w", encoding="utf-8"))


def converse(duplex: Duplex, reader: Any) -> Iterator[tuple[Any, float, str, int, float]]:
    """What the model says: (samples, seconds, piece of text, text token, seconds that the step
    took) of every frame, until the caller's audio ends. The frames that the delays hold back are
    fetched with silence."""
    import time

    import numpy as np

    from kaiwa.cli.encode import frames_of

    size, rate = duplex.frame_size, duplex.sample_rate
    lengths: list[int] = []
    given = 0

    def inputs() -> Iterator[Any]:
        for chunk in frames_of(reader, rate, size):
            for start in range(0, len(chunk), size):
                piece = chunk[start : start + size]
                lengths.append(len(piece))
                frame = np.zeros((1, size), np.float32)
                frame[0, : len(piece)] = piece
                yield frame
        while given < len(lengths):
            yield np.zeros((1, size), np.float32)

    for frame in inputs():
        began = time.perf_counter()
        out = duplex.step(frame)
        took = time.perf_counter() - began
        if out.ready[0]:
            t = given * size / rate
            yield out.audio[0, : lengths[given]], t, out.text[0], int(out.text_tokens[0]), took
            given += 1
            if given == len(lengths) and lengths[-1] < size:
                return


def write_text(file: TextIO, t: float, piece: str, token: int, duplex: Duplex) -> None:
    """One line of the text file, if something is said at this frame."""
    import json

    if duplex.tokenizer is not None:
        if piece:
            line = {"t": round(t, 3), "text": piece}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    elif token > 3:
        file.write(json.dumps({"t": round(t, 3), "token": token}) + "\n")

"""`kaiwa plot CALL`: a call as a picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kaiwa.cli import options

if TYPE_CHECKING:
    from kaiwa.plotting.call import Call, Side

#: Codebooks that `--codes` computes.
NUM_CODEBOOKS = 8


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plot",
        help="a call as a picture",
        description="Draw a call: waveform and spectrogram of both sides, codes, turns, text and "
        "times of its frames, on one time axis. Needs matplotlib: pip install 'kaiwa[plot]'.",
    )
    parser.add_argument(
        "input",
        metavar="CALL",
        help="recording: of two channels (the caller's and the model's), or of the model alone; or "
        "a file of codes; - is a recording from standard input",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        nargs="?",
        help="picture to write, .png or .svg; - is standard output, as PNG (default: CALL with the "
        "ending .png)",
    )
    parser.add_argument(
        "--caller", metavar="FILE", help="recording or codes of the caller, if CALL is the model's"
    )
    parser.add_argument(
        "--text", metavar="FILE", help="what `kaiwa run --text` or `kaiwa client --text` wrote"
    )
    parser.add_argument(
        "--timing",
        metavar="FILE",
        help="what `kaiwa run --timing` or `kaiwa client --timing` wrote",
    )
    parser.add_argument(
        "--codes",
        action="store_true",
        help=f"compute the codes of recordings, {NUM_CODEBOOKS} codebooks, and draw them too",
    )
    parser.add_argument(
        "--start",
        type=options.from_zero,
        default=0.0,
        metavar="S",
        help="draw from this second of the call on (default: 0)",
    )
    parser.add_argument(
        "--seconds",
        type=options.positive_float,
        metavar="S",
        help="draw so many seconds (default: to the end)",
    )
    parser.add_argument("--title", metavar="TEXT", help="headline (default: the name of CALL)")
    options.add_model(parser)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws; see the parser for the arguments."""
    from pathlib import Path

    from kaiwa import plotting
    from kaiwa._streams import STANDARD
    from kaiwa.errors import InputError
    from kaiwa.plotting.output import format_of
    from kaiwa.terminal import progress

    plotting.require()
    output = args.output
    if output is None:
        if args.input == STANDARD:
            raise InputError("standard input has no name; name the picture too: kaiwa plot - OUT")
        output = str(Path(args.input).with_suffix(".png"))
    format_of(output)
    call = read(args)
    with progress.bar("drawing", None, quiet=args.quiet):
        from kaiwa.plotting import call_figure

        figure = call_figure.draw(call)
        plotting.save(figure, output, reading=args.input)
    progress.summary(f"{output}: {call_figure.facts(call)}", quiet=args.quiet)
    return 0


def read(args: argparse.Namespace) -> Call:
    """Everything that is drawn.

    Raises:
        AudioFileError, InputError: a file cannot be read, or they do not belong to each other.
    """
    from math import inf

    from kaiwa import _streams
    from kaiwa.plotting import steps, text
    from kaiwa.plotting.call import Call
    from kaiwa.plotting.sources import Part

    # Text and times first: they are short, and may be the wrong files.
    pieces = text.read(args.text) if args.text else []
    times = steps.read(args.timing) if args.timing else None
    end = inf if args.seconds is None else args.start + args.seconds
    part = Part(args.start, end)
    return Call(
        args.title or _streams.name_of(args.input).rpartition("/")[2],
        _sides(args, part),
        pieces,
        times,
        begin=part.start,
        whole=part.whole,
    )


def _sides(args: argparse.Namespace, part: Any) -> list[Side]:
    """Both sides of the call, as far as they are known."""
    from kaiwa.cli import model
    from kaiwa.errors import InputError
    from kaiwa.plotting.sources import sides_of
    from kaiwa.terminal import progress

    mimi = model.load(args, NUM_CODEBOOKS) if args.codes else None
    alone = "model" if args.caller else "recording"
    files = [(args.input, ("caller", "model"), alone)]
    if args.caller:
        files.insert(0, (args.caller, ("caller", "caller"), "caller"))
    sides: list[Side] = []
    with progress.bar("reading", _samples(args, part), quiet=args.quiet) as advance:
        for path, names, single in files:
            found = sides_of(
                path, names, single, part, mimi=mimi, advance=advance, warn=progress.warn
            )
            if args.caller and len(found) > 1:
                raise InputError(
                    f"{path} has two channels, which are both sides of a call; leave --caller out, "
                    "or give recordings of one channel each"
                )
            sides += found
    return sides


def _samples(args: argparse.Namespace, part: Any) -> int | None:
    """Samples that will be read, for the bar; None if that is not known beforehand."""
    from math import isinf

    from kaiwa import _streams
    from kaiwa.audio_files import AudioReader
    from kaiwa.plotting.sources import holds_codes

    total = 0
    for path in filter(None, (args.input, args.caller)):
        if _streams.is_stream(path):
            return None
        if holds_codes(path):
            continue
        with AudioReader(path, lambda text: None) as reader:
            if reader.frames is None:
                return None
            last = reader.frames if isinf(part.end) else round(part.end * reader.sample_rate)
            total += min(reader.frames, last)
    return total

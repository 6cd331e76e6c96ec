"""`kaiwa transcribe FILE`: what is said in an audio file, as text, JSON or subtitles."""

from __future__ import annotations

import argparse
import os
from typing import Any

from kaiwa import model_options
from kaiwa.cli import options

#: What is used if no model is named.
DEFAULT = "kyutai/stt-1b-en_fr"
#: The variable that names another.
VARIABLE = "KAIWA_TRANSCRIBER"


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    from kaiwa.transcript import FORMATS

    parser: argparse.ArgumentParser = commands.add_parser(
        "transcribe",
        help="what is said in an audio file",
        description="Write down what is said in an audio file (wav, flac, mp3, ogg, opus; any rate "
        "and length; channels are averaged).",
    )
    parser.add_argument("input", metavar="FILE", help="audio file; - is standard input")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text; json: text, and words with start and stop in seconds; srt or vtt: subtitles "
        "(default: text)",
    )
    parser.add_argument(
        "--output",
        metavar="OUT",
        default="-",
        help="file to write; - is standard output (default: -)",
    )
    group = parser.add_argument_group("model")
    for option in model_options.MODEL:
        words = {}
        if option.name == "model":
            words = {
                "help": "speech to text model: a Hugging Face repository, a folder, or a file",
                "shown_default": f"the variable {VARIABLE}, else {DEFAULT}",
            }
        options.add(group, option, **words)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribes; see the parser for the arguments."""
    import sys
    import time

    from kaiwa import SpeechToText, transcript
    from kaiwa._atomic import replacing
    from kaiwa._streams import STANDARD
    from kaiwa.audio_files import AudioReader
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    # Before minutes go into reading the model.
    with AudioReader(args.input, progress.warn) as reader:
        if reader.frames == 0:
            raise InputError(f"{reader.name} holds no audio; give a file with at least one sample")
        source = args.model or os.environ.get(VARIABLE) or DEFAULT
        with progress.share("loading", quiet=args.quiet) as update:
            model = SpeechToText.from_pretrained(
                source, progress=update, **model_options.loading(args)
            )
        started = time.perf_counter()
        frames = 0

        def done(count: int, total: int) -> None:
            nonlocal frames
            frames = max(count, total)
            if total:
                update(count, total)

        with progress.share("transcribing", quiet=args.quiet) as update:
            words = model.transcribe(reader, progress=done)
        elapsed = time.perf_counter() - started
    made = transcript.write(words, args.format)
    if args.output == STANDARD:
        sys.stdout.write(made)
    else:
        with replacing(args.output, reading=args.input) as temporary:
            temporary.write_text(made, encoding="utf-8")
    seconds = frames * 0.08
    progress.summary(
        f"{len(words)} words in {seconds:.2f} s of audio, {progress.speed(seconds, elapsed)}",
        quiet=args.quiet,
    )
    return 0

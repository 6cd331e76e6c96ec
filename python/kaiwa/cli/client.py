"""`kaiwa client --in FILE --out FILE URL`: a call to a server with an audio file."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from kaiwa.cli import chat_options, options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kaiwa.audio_files import AudioReader, AudioWriter
    from kaiwa.client import ChatClient
    from kaiwa.client.conversation import Conversation


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "client",
        help="call a server with an audio file",
        description="Let a running server listen to an audio file and write what it says "
        "meanwhile to another of the same length and clock: frame n of OUT is the n-th frame that "
        "came back. The text goes to standard output. Behind the file, frames of silence are sent "
        "until all its frames are answered, at most 25, or 4 with --pace none.",
    )
    parser.add_argument(
        "--in", dest="input", metavar="FILE", required=True, help="audio file of the caller"
    )
    parser.add_argument(
        "--out",
        dest="output",
        metavar="FILE",
        required=True,
        help="audio file to write (.wav, .flac, ...)",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help='also write the text: one JSON object a line, {"t": seconds, "text": piece}',
    )
    options.add_timing(
        parser,
        "latency_ms",
        "from sending it to the end of its answer; `kaiwa plot --timing` draws them",
    )
    parser.add_argument(
        "--pace",
        choices=("realtime", "none"),
        default="realtime",
        help="realtime: as a caller speaks; none: as fast as the server answers, which only "
        "Kaiwa's server knows (default: realtime)",
    )
    parser.add_argument(
        "--wait",
        type=options.positive_float,
        metavar="S",
        help="seconds to wait for a slot (default: as long as it takes)",
    )
    chat_options.add_connection(parser, protocols=True)
    chat_options.add_sampling(parser)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converses; see the parser for the arguments."""
    import asyncio

    from kaiwa._atomic import replacing
    from kaiwa._streams import STANDARD
    from kaiwa.audio_files import AudioReader, AudioWriter, check_length, output_format
    from kaiwa.client import SAMPLE_RATE
    from kaiwa.client.messages import printable
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    options.check_side_files(args)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(AudioReader(args.input, progress.warn))
        output_format(args.output, SAMPLE_RATE, None)
        temporary = stack.enter_context(replacing(args.output, reading=args.input, streamed=".wav"))
        expected = reader.frames_at(SAMPLE_RATE)
        if expected == 0:
            raise InputError(f"{args.input} holds no audio; give a file with at least one sample")
        check_length(args.output, expected, None)
        lines: list[str] = []
        text: list[str] = []
        writer = stack.enter_context(AudioWriter(temporary, SAMPLE_RATE, None))
        talk = asyncio.run(_call(args, reader, writer, _noting(lines, text)))
        if args.text:
            path = stack.enter_context(replacing(args.text, reading=args.input, streamed=".jsonl"))
            path.write_text("".join(lines), encoding="utf-8")
        if args.timing:
            path = stack.enter_context(
                replacing(args.timing, reading=args.input, streamed=".jsonl")
            )
            path.write_text("".join(_latencies(talk)), encoding="utf-8")
    if text and STANDARD not in (args.output, args.text, args.timing):
        print(printable("".join(text)).strip())
    return 0


def _noting(lines: list[str], text: list[str]) -> Callable[[float, str], None]:
    """Keeps each piece of text, and its line of the text file."""
    import json

    def note(t: float, piece: str) -> None:
        text.append(piece)
        lines.append(json.dumps({"t": round(t, 3), "text": piece}, ensure_ascii=False) + "\n")

    return note


def _latencies(talk: Conversation) -> Iterator[str]:
    """Lines of the file of times: of every frame of the input that was answered."""
    import json

    from kaiwa.client import FRAME_SECONDS

    pairs = zip(talk.timeline.sent, talk.timeline.answered, strict=False)
    for number, (sent, came) in enumerate(itertools.islice(pairs, talk.frames)):
        if came is not None:
            t, ms = round(number * FRAME_SECONDS, 3), round(1e3 * (came - sent), 3)
            yield json.dumps({"t": t, "latency_ms": ms}) + "\n"


async def _call(
    args: argparse.Namespace,
    reader: AudioReader,
    writer: AudioWriter,
    on_text: Callable[[float, str], None],
) -> Conversation:
    """The call from connecting to the summary; what was measured in it."""
    import time

    from kaiwa.cli.encode import frames_of
    from kaiwa.client import FRAME, SAMPLE_RATE, connect
    from kaiwa.client.conversation import Conversation
    from kaiwa.terminal import progress

    def queued(position: int | None) -> None:
        where = "" if position is None else f", position {position}"
        progress.summary(f"waiting for a slot{where}", quiet=args.quiet)

    params = chat_options.params(args, pace="none" if args.pace == "none" else None)
    began = time.perf_counter()
    async with connect(
        **chat_options.connection(args), params=params, timeout=args.wait, on_queue=queued
    ) as chat:
        waited = time.perf_counter() - began
        total = reader.frames_at(SAMPLE_RATE, FRAME)
        with progress.bar("conversing", total, quiet=args.quiet) as advance:
            talk = Conversation(
                chat,
                pace=args.pace,
                on_audio=writer.write,
                on_text=on_text,
                on_frame=lambda: advance(1),
            )
            started = time.perf_counter()
            await talk.run(frames_of(reader, SAMPLE_RATE, FRAME))
            elapsed = time.perf_counter() - started
    _report(args, chat, talk, waited, elapsed)
    return talk


def _report(
    args: argparse.Namespace, chat: ChatClient, talk: Conversation, waited: float, elapsed: float
) -> None:
    """Warnings and the summary.

    Raises:
        ServerError: nothing came back at all.
    """
    from kaiwa.client import FRAME_SECONDS, SAMPLE_RATE
    from kaiwa.client.timeline import quantile
    from kaiwa.errors import ServerError
    from kaiwa.terminal import progress

    end = f"close {chat.close_code}" + (f" {chat.close_reason}" if chat.close_reason else "")
    if not talk.timeline.came and chat.wire.continuous:
        raise ServerError(
            f"{chat.url} answered no frame of {talk.frames} ({end}); look at the server's log",
            code="no_answer",
        )
    if talk.missing:
        progress.warn(
            f"{talk.missing} of {talk.frames} frames were not answered ({chat.error or end}); "
            f"{args.output} has silence after "
            f"{len(talk.timeline.answered) * FRAME_SECONDS:.2f} s"
        )
    seconds = talk.samples / SAMPLE_RATE
    parts = [
        f"{args.output}: {seconds:.2f} s in {elapsed:.2f} s",
        f"handshake after {waited * 1e3:.0f} ms",
    ]
    if talk.first_audio is not None:
        parts.append(f"first audio {(talk.first_audio - talk.timeline.sent[0]) * 1e3:.0f} ms")
    if talk.schedule is not None:
        latencies = talk.timeline.latencies()[: talk.frames]
        p50, p99 = ((quantile(latencies, q) or 0.0) * 1e3 for q in (0.5, 0.99))
        parts.append(f"frame latency p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        if talk.schedule.skipped:
            parts.append(f"{talk.schedule.skipped} frames sent late")
    else:
        parts.append(progress.speed(seconds, elapsed))
    parts.append(f"{talk.missing} of {talk.frames} frames missing")
    if talk.trailing:
        parts.append(f"{talk.trailing} frames of silence behind")
    progress.summary("; ".join([*parts, end]), quiet=args.quiet)

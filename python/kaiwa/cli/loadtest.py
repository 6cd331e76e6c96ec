"""`kaiwa loadtest URL`: many calls at once, and how the server fares."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kaiwa.cli import chat_options, options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kaiwa.client.loadtest import WorkerResult

#: Seconds of voice, or of a file, that a call repeats.
LOOP_SECONDS = 60.0
#: Milliseconds of lateness of what is sent, above which the answers say little about the server.
LATE = 20.0


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "loadtest",
        aliases=["load"],
        help="many calls at once to a server",
        description="Call a server many times at once and measure its answers. Each call sends a "
        "frame each 80 ms on an absolute schedule; a frame that would be more than 80 ms late is "
        "skipped and counted. The latency of frame n is the time from sending its last byte to "
        "the end of the n-th frame of the answer. Calls that get no slot count "
        "in every total. By twilio a server does not say when a call has its slot: what is sent "
        "before that is missing, and adds to the latency of all that follows. By realtime a server "
        "sends only what the model says: frames of silence are not among those answered, nor "
        "missing. Look at the send "
        "lateness first: if it is high, this machine calls too slowly, and the other numbers are "
        "about it and not about the server. "
        "`kaiwa load` is another name of this command.",
    )
    parser.add_argument(
        "--calls", type=options.positive, default=1, metavar="N", help="calls (default: 1)"
    )
    parser.add_argument(
        "--seconds",
        type=options.positive_float,
        default=30.0,
        metavar="S",
        help="length of each call (default: 30)",
    )
    parser.add_argument(
        "--ramp",
        type=options.positive_float,
        default=0.0,
        metavar="S",
        help="let the calls begin one after another over this time (default: all at once)",
    )
    parser.add_argument(
        "--in",
        dest="input",
        metavar="FILE",
        help="what every caller says; its first minute is repeated (default: a synthetic voice)",
    )
    parser.add_argument(
        "--wait",
        type=options.positive_float,
        default=30.0,
        metavar="S",
        help="seconds that a call waits for a slot (default: 30)",
    )
    parser.add_argument(
        "--held-back",
        type=options.not_negative,
        default=0,
        metavar="N",
        help="frames that the model holds back at the end of a call, not missing (default: 0)",
    )
    parser.add_argument(
        "--processes",
        type=options.positive,
        default=1,
        metavar="P",
        help="processes to spread the calls over (default: 1)",
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="decode the answers and report their level; costs a millisecond per ten frames",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chat_options.add_connection(parser, protocols=True)
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calls and reports; exit code 1 if no call was answered."""
    from kaiwa.client import loadtest
    from kaiwa.terminal import progress, table

    chosen = loadtest.LoadTestOptions(
        **chat_options.connection(args),
        ramp=args.ramp,
        wait=args.wait,
        decode=args.decode,
        held_back=args.held_back,
    )
    frames = loadtest.frames_in(args.seconds)
    progress.summary(f"preparing {args.seconds:g} s of audio", quiet=args.quiet)
    with progress.bar("preparing", frames, quiet=args.quiet) as advance:
        voice = loadtest.looped(_voice(args.input, args.seconds), frames)
        outgoing = loadtest.prepare(voice, args.format, advance, args.protocol)
    progress.summary(f"{args.calls} calls to {chosen.url}", quiet=args.quiet)
    with progress.elapsing("calling", args.ramp + args.seconds, quiet=args.quiet):
        workers = loadtest.run(chosen, outgoing, args.calls, args.processes)
    summary = _summary(args, workers)
    table.show(summary, as_json=args.json)
    late = summary["send_lateness_ms"]["p99"]
    if late is not None and late > LATE:
        progress.warn(
            f"1 % of frames were sent more than {late:.0f} ms late: this machine calls too slowly "
            f"to measure the server; use --processes {args.processes + 1} or fewer calls"
        )
    if summary["frames"]["answered"] == 0:
        progress.warn("no call was answered; the endings above say why")
        return 1
    return 0


def _summary(args: argparse.Namespace, workers: list[WorkerResult]) -> dict[str, Any]:
    """The report, and how busy the driver was."""
    from kaiwa.client import wires
    from kaiwa.client.loadtest_report import report
    from kaiwa.client.url import chat_url, without_query

    records = [record for worker in workers for record in worker.records]
    return {
        "server": without_query(chat_url(args.url, path=wires.wire(args.protocol).path)),
        "protocol": args.protocol,
        "format": args.format or ("opus" if args.protocol == wires.WIRES[0] else None),
        "seconds": args.seconds,
        **report(records, args.held_back),
        "driver_cores": [round(worker.cpu, 3) for worker in workers],
    }


def _voice(path: str | None, seconds: float) -> NDArray[np.float32]:
    """What the callers say in `seconds`: a minute of it at most."""
    from kaiwa.audio_files import AudioReader
    from kaiwa.cli.encode import frames_of
    from kaiwa.client import SAMPLE_RATE
    from kaiwa.errors import InputError
    from kaiwa.synth import voice

    length = round(min(max(seconds, 1.0), LOOP_SECONDS) * SAMPLE_RATE)
    if path is None:
        return voice(length / SAMPLE_RATE, sample_rate=SAMPLE_RATE)
    with AudioReader(path) as reader:
        for piece in frames_of(reader, SAMPLE_RATE, length):
            return piece
    raise InputError(f"{path} holds no audio; give a file with at least one sample")

"""`kaiwa bench mimi`: what is measured, in which order, and how it becomes a report."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaiwa import Mimi, _native
from kaiwa.bench import measure, picture, report
from kaiwa.bench.engines import Engine, Kaiwa, peers
from kaiwa.bench.measure import Array, FileTimes, Ratio, StreamTimes
from kaiwa.errors import InputError
from kaiwa.synth import voice, write_mimi
from kaiwa.terminal import progress

if TYPE_CHECKING:
    from kaiwa.plotting.picture import Picture


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    slots: tuple[int, ...]
    frames: int
    rounds: int
    file_seconds: float

    @property
    def file_rounds(self) -> int:
        """Whole files take peers long; three rounds give a spread."""
        return min(self.rounds, 3)


@dataclass(frozen=True)
class Results:
    """All times, Kaiwa's first in every list."""

    streams: list[StreamTimes]
    files: list[FileTimes]


def command(args: argparse.Namespace) -> int:
    """Runs the bench for the parsed arguments and prints it."""
    picture.check(args.plot)
    if args.frames + measure.WARM_UP > measure.COMPARABLE_FRAMES:
        most = measure.COMPARABLE_FRAMES - measure.WARM_UP
        raise InputError(
            f"--frames is {args.frames}; use at most {most}: later frames differ between "
            "implementations"
        )
    with tempfile.TemporaryDirectory(prefix="kaiwa-bench-") as folder:
        with progress.bar("preparing", None, quiet=args.quiet):
            source, path, label = _model(args, Path(folder))
            mimi = Mimi.from_pretrained(
                source,
                num_codebooks=args.num_codebooks,
                device=args.device,
                dtype=args.dtype,
                revision=args.revision,
            )
            found: list[Engine] = []
            missing: dict[str, str] = {}
            if args.peers == "auto":
                found, missing = peers(path, args.num_codebooks)
        plan = Plan(tuple(sorted({1, *args.slots})), args.frames, args.rounds, args.file_seconds)
        results = run(mimi, found, plan, quiet=args.quiet)
        summary = describe(mimi, plan, results, missing, model=label)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        report.show(summary)
    picture.write(args.plot, lambda: _picture(summary), quiet=args.quiet)
    return 0


def _picture(summary: dict[str, Any]) -> Picture:
    """The figures drawn; matplotlib is loaded by those who draw."""
    from kaiwa.plotting import bench_mimi

    return bench_mimi.draw(summary)


def _model(args: argparse.Namespace, folder: Path) -> tuple[str, Path | None, str]:
    """The model's source, the file a peer could load, and what to call it."""
    source = args.model or os.environ.get("KAIWA_MIMI")
    if source:
        return source, Path(source) if Path(source).is_file() else None, source
    made = write_mimi(folder / "mimi.safetensors").weights
    return str(made), made, "synthetic, full size"


def run(mimi: Mimi, found: list[Engine], plan: Plan, *, quiet: bool) -> Results:
    """Every engine in turn, round by round; odd rounds go in the opposite order."""
    own = Kaiwa(mimi)
    engines: list[Engine] = [own, *found]
    total_frames = plan.frames + measure.WARM_UP
    rows = [
        voice(total_frames * mimi.frame_size / mimi.sample_rate, seed=row)
        for row in range(max(plan.slots))
    ]
    pcm: Array = np.stack(rows)[:, None, :]
    signal = voice(plan.file_seconds, seed=99)
    streams = {(e.name, n): StreamTimes(e.name, n) for e in engines for n in plan.slots}
    files = {e.name: FileTimes(e.name) for e in engines}
    steps = plan.rounds * len(plan.slots) + plan.file_rounds
    with progress.bar("measuring", steps, quiet=quiet) as advance:
        for number in range(plan.rounds):
            turn = engines[::-1] if number % 2 else engines
            for slots in plan.slots:
                for engine in turn:
                    frames = plan.frames if engine is own else _peer_frames(plan.frames, slots)
                    times = streams[engine.name, slots]
                    measure.time_streams(engine, pcm[:slots], mimi.frame_size, frames, times)
                advance(1)
            if number < plan.file_rounds:
                for engine in turn:
                    measure.time_file(engine, signal, files[engine.name])
                advance(1)
    return Results(list(streams.values()), list(files.values()))


def _peer_frames(frames: int, slots: int) -> int:
    """Fewer frames of a peer's large batches, which take seconds each."""
    return min(frames, max(5, 2 * frames // slots))


def describe(
    mimi: Mimi, plan: Plan, results: Results, missing: dict[str, str], *, model: str
) -> dict[str, Any]:
    """The report as plain values; times in milliseconds per frame unless named otherwise."""
    frame_ms = 1e3 / mimi.frame_rate
    cpu = _native.cpu_info()
    threads = cpu["threads"]
    own = {t.slots: t for t in results.streams if t.engine == "kaiwa"}
    single = {t.engine: t for t in results.streams if t.slots == 1}
    streams = []
    for times in results.streams:
        both = float(np.median(times.per_stream("both")))
        row: dict[str, Any] = {
            "engine": times.engine,
            "slots": times.slots,
            "encode_ms": _spread(times.encode),
            "decode_ms": _spread(times.decode),
            "per_stream_ms": both,
            "real_time_factor": both / frame_ms,
            "streams_per_core": frame_ms / both / threads,
        }
        own_times = own[times.slots].per_stream("both")
        if times.engine == "kaiwa":
            row["state_bytes_per_stream"] = mimi.stream(times.slots).state_bytes // times.slots
            row["one_by_one"] = {
                name: _ratio(peer.per_stream("both"), own_times)
                for name, peer in single.items()
                if name != "kaiwa"
            }
        else:
            row["ratio"] = _ratio(times.per_stream("both"), own_times)
        streams.append(row)
    own_file = results.files[0].total()
    files = [
        {
            "engine": times.engine,
            "encode_s": float(np.median(times.encode)),
            "decode_s": float(np.median(times.decode)),
            "real_time_factor": float(np.median(times.total())) / plan.file_seconds,
            "ratio": None if times.engine == "kaiwa" else _ratio(times.total(), own_file),
        }
        for times in results.files
    ]
    return {
        "model": model,
        "device": mimi.device,
        "dtype": mimi.dtype,
        "num_codebooks": mimi.num_codebooks,
        "kernels": cpu["selected"],
        "threads": threads,
        "cores": os.cpu_count(),
        "frames": plan.frames,
        "rounds": plan.rounds,
        "file_seconds": plan.file_seconds,
        "streams": streams,
        "files": files,
        "missing_peers": missing,
    }


def _spread(rounds: list[list[float]]) -> dict[str, float]:
    """Median and 90th percentile over all frames."""
    every = [value for times in rounds for value in times]
    return {"median": float(np.median(every)), "p90": float(np.percentile(every, 90))}


def _ratio(peer: list[float], own: list[float]) -> dict[str, float]:
    """A peer's time over Kaiwa's, with spread."""
    ratio = Ratio.of(peer, own)
    return {"median": ratio.median, "min": ratio.low, "max": ratio.high}

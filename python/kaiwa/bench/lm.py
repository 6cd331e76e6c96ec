"""`kaiwa bench lm`: what is measured on which model, and how it becomes a report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaiwa import _native
from kaiwa.bench import bandwidth, lm_measure, lm_model, lm_peer, lm_report, picture
from kaiwa.bench.lm_measure import OwnTimes, PeerTimes, Plan, Results
from kaiwa.bench.measure import Ratio
from kaiwa.errors import CheckpointNotFoundError, InputError
from kaiwa.terminal import progress

if TYPE_CHECKING:
    from kaiwa.plotting.picture import Picture


def command(args: argparse.Namespace) -> int:
    """Runs the bench for the parsed arguments and prints it."""
    picture.check(args.plot)
    threads = _native.cpu_info()["threads"]
    windows = ("short", "full") if args.window == "both" else (args.window,)
    plan = Plan(
        formats=tuple(lm_model.kinds(args.formats)),
        slots=tuple(sorted({1, *args.slots})),
        steps=args.steps,
        rounds=args.rounds,
        windows=windows,
        threads=threads,
        device=args.device,
    )
    if args.peer and not plan.on_cpu:
        raise InputError("peers run on the processor; give --peer with --device cpu only")
    peers = [lm_peer.Peer(Path(program)) for program in args.peer]
    _check_position(plan)
    with tempfile.TemporaryDirectory(prefix="kaiwa-bench-") as folder:
        source, label = _model(args.size, Path(folder), quiet=args.quiet)
        turns = plan.rounds * (len(plan.formats) + len(peers))
        with progress.bar("measuring", turns, quiet=args.quiet) as advance:
            results = lm_measure.run(
                lambda kind: lm_model.load(source, kind, args.kv, args.device),
                plan,
                peers,
                lm_peer.model_file(source),
                lm_model.weights_in(source),
                advance,
            )
    if not results.own:
        reasons = "; ".join(f"{name} {why}" for name, why in results.left_out.items())
        raise InputError(f"nothing could be measured: {reasons}; choose a smaller --size")
    summary = describe(plan, results, model=label, kv=args.kv)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        lm_report.show(summary)
    picture.write(args.plot, lambda: _picture(summary), quiet=args.quiet)
    return 0


def _picture(summary: dict[str, Any]) -> Picture:
    """The figures drawn; matplotlib is loaded by those who draw."""
    from kaiwa.plotting import bench_lm

    return bench_lm.draw(summary)


def _check_position(plan: Plan) -> None:
    """Early and late timings of a long conversation must not overlap."""
    most = lm_measure.LATE - lm_measure.EARLY - lm_measure.WARM_UP
    if plan.steps > most:
        raise InputError(f"--steps is {plan.steps}; use at most {most}")


def _model(size: str, folder: Path, *, quiet: bool) -> tuple[Path, str]:
    """The model's folder or file, and what to call it."""
    if size in _native.LM_SIZES:
        progress.summary(f"writing random weights of size {size}", quiet=quiet)
        with progress.bar("writing", None, quiet=quiet):
            return lm_model.synthesise(folder / size, size), f"random weights, {size}"
    source = Path(size)
    if not source.exists():
        raise CheckpointNotFoundError(
            f"--size {size} is neither one of {', '.join(_native.LM_SIZES)} nor an existing path; "
            "give one of these, or a folder or file with a model"
        )
    return source, str(source)


def describe(plan: Plan, results: Results, *, model: str, kv: str | None) -> dict[str, Any]:
    """The report as plain values; ratios and spreads are over rounds, in milliseconds."""
    cpu = _native.cpu_info()
    read = results.bandwidth.median
    rows = [_row(own, key, read) for own in results.own.values() for key in own.steps]
    return {
        "model": model,
        "device": plan.device,
        "kernels": cpu["selected"],
        "threads": cpu["threads"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kv_dtype": kv or "default",
        "steps": plan.steps,
        "rounds": plan.rounds,
        # Of the processor's memory; None where the model runs on something else.
        "read_gb_s": spread([value / 1e9 for value in results.bandwidth.rounds]) if read else None,
        "kinds": {
            kind: {
                "weight_bytes": own.weight_bytes,
                "step_bytes": sum(count for _, count in own.step_bytes),
                "load_s": spread(own.load_s),
                "context": own.context,
            }
            for kind, own in results.own.items()
        },
        "rows": rows,
        "stages": [_stage_table(own, w, read) for own in results.own.values() for w in own.stages],
        "long": [_long(own) for own in results.own.values() if len(own.long) == 2],
        "peers": [_peer(times, results) for times in results.peers.values()],
        "left_out": results.left_out,
    }


def spread(rounds: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": float(np.median(rounds)), "min": min(rounds), "max": max(rounds)}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratio of two, round by round; one that was given up is compared in the rounds it had."""
    rounds = min(len(above), len(below))
    found = Ratio.of(above[:rounds], below[:rounds])
    return {"median": found.median, "min": found.low, "max": found.high}


def _history(own: OwnTimes, window: str) -> int:
    """Bytes of keys and values that a step at one slot reads; little before the window fills."""
    return own.state_bytes.get((1, window), 0) if window == "full" else 0


def _row(own: OwnTimes, key: tuple[int, str], read: float | None) -> dict[str, Any]:
    """One measurement of Kaiwa."""
    slots, window = key
    times = own.steps[key].medians()
    one = own.steps[1, window].medians()
    row: dict[str, Any] = {
        "kind": own.kind,
        "slots": slots,
        "window": window,
        "step_ms": spread(times),
        "state_bytes_per_slot": own.state_bytes[key],
        # Of one slot's step, per slot: 1/slots would be perfect sharing.
        "slot_cost": ratio([t / slots for t in times], one),
    }
    weights = sum(c for _, c in own.step_bytes)
    # Candle's operators do not tell what they read.
    if slots == 1 and weights:
        count = weights + _history(own, window)
        rates = [bandwidth.rate(ms, count) for ms in times]
        row["bytes"] = count
        row["gb_s"] = spread([r / 1e9 for r in rates])
        if read:
            row["of_bandwidth"] = spread([r / read for r in rates])
    return row


def _stage_table(own: OwnTimes, window: str, read: float | None) -> dict[str, Any]:
    """What a step at one slot consists of."""
    found = bandwidth.stages(own.stages[window], own.step_bytes, _history(own, window))
    total = float(np.median(own.steps[1, window].medians()))
    parts: list[dict[str, Any]] = [
        {
            "stage": s.name,
            "ms": s.ms,
            "share": s.ms / total,
            "bytes": s.bytes,
            "gb_s": s.rate / 1e9 if s.rate else None,
            "of_bandwidth": s.rate / read if s.rate and read else None,
        }
        for s in found
    ]
    rest = total - sum(s.ms for s in found)
    return {"kind": own.kind, "window": window, "step_ms": total, "parts": parts, "rest_ms": rest}


def _long(own: OwnTimes) -> dict[str, Any]:
    """Does a step get slower in a long conversation?"""
    early, late = (own.long[at].medians() for at in (lm_measure.EARLY, lm_measure.LATE))
    return {
        "kind": own.kind,
        "early": lm_measure.EARLY,
        "late": lm_measure.LATE,
        "early_ms": spread(early),
        "late_ms": spread(late),
        "ratio": ratio(late, early),
    }


def _peer(times: PeerTimes, results: Results) -> dict[str, Any]:
    """A peer against each of our weight kinds, at one slot."""
    ratios = [
        {
            "kind": kind,
            "window": window,
            "ratio": ratio(steps.medians(), own.steps[1, window].medians()),
        }
        for window, steps in times.steps.items()
        for kind, own in results.own.items()
    ]
    return {
        "peer": times.label,
        "program": str(times.program),
        "load_s": spread(times.load_s),
        "step_ms": {window: spread(s.medians()) for window, s in times.steps.items()},
        "ratios": ratios,
    }

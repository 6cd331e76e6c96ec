"""`python -m tools.simulation`; `tools/simulate` calls it."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from tools.simulation.world import KINDS, LARGE_HOURS, Report, run_kind


def main(argv: list[str] | None = None) -> int:
    """Runs worlds; 1 if something happened in one that must not."""
    parser = argparse.ArgumentParser("tools/simulate", description=__doc__)
    parser.add_argument("--hours", type=float, default=1000.0, help="simulated hours of calls")
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--kind", choices=KINDS, help="only the one world of --seed and this kind")
    options = parser.parse_args(argv)
    if options.kind:
        worlds: Iterator[tuple[int, str]] = iter([(options.seed, options.kind)])
    else:
        worlds = ((seed, kind) for seed in itertools.count(options.seed) for kind in KINDS)
    return _run(worlds, options.hours, options.workers)


def _run(worlds: Iterator[tuple[int, str]], hours: float, workers: int) -> int:
    """Lives through worlds until there were enough hours of calls, and says what happened."""
    began, reports, bad = time.monotonic(), [], 0
    pending: dict[Future[Report], tuple[int, str]] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        planned = 0.0
        while True:
            while len(pending) < workers and planned < hours:
                world = next(worlds, None)
                if world is None:
                    planned = hours
                    break
                pending[pool.submit(run_kind, *world)] = world
                planned += LARGE_HOURS if world[1] == "large" else 0.0
            if not pending:
                break
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                seed, kind = pending.pop(future)
                report = future.result()
                reports.append(report)
                if report.violation is not None:
                    bad += 1
                    print(f"{report.violation}")
                    print(f"  again by: tools/simulate --seed {seed} --kind {kind}", flush=True)
    outcomes = sum((Counter(report.outcomes) for report in reports), Counter())
    width = max(map(len, outcomes), default=0)
    for name, count in sorted(outcomes.items()):
        print(f"{name:{width}} {count:12,}")
    calls = sum(report.call_hours for report in reports)
    seconds = time.monotonic() - began
    print(f"{calls:,.0f} hours of calls in {len(reports)} worlds, {seconds:,.0f} s, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

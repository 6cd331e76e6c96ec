"""`python -m tools.scale.tables`: the tables of docs/scale.md, from the simulation (minutes)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kaiwa.plan.device import DEVICES
from kaiwa.plan.model import MODELS
from kaiwa.plan.sizing import Wanted, plan
from tools.scale.report import report
from tools.scale.setup import Setup
from tools.scale.world import World

#: Sizes of servers: a processor with measured times of a step, a GPU with estimated ones.
SERVERS = {"measured": ("300m", "cpu-2core"), "estimated": ("7b", "h100")}


def base(kind: str) -> Setup:
    """One cell of one server."""
    model, device = SERVERS[kind]
    found = plan(MODELS[model], DEVICES[device], Wanted(calls=1))
    return Setup(cells=1, replicas=1, slots=found.slots, steps=found.steps, load=0.0)


def filled(setup: Setup, calls: float, full: float, cells: int = 1) -> Setup:
    """So many servers that calls fill a share of their slots."""
    replicas = math.ceil(calls / full / setup.slots / cells)
    return replace(setup, cells=cells, replicas=replicas, load=calls)


def headroom() -> Iterable[list[str]]:
    """How full a cell may be."""
    shares = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
    yield ["slots a server", "calls", *(f"{share:.0%} full" for share in shares)]
    for kind, sizes in (("measured", (20, 100, 1000)), ("estimated", (200, 1000, 4000))):
        start = base(kind)
        for calls in sizes:
            setups = (filled(start, calls, share) for share in shares)
            long = 36_000.0 if calls < 1000 else 3600.0
            found = [run(replace(setup, seconds=long)) for setup in setups]
            yield [str(start.slots), str(calls), *(f"{f['not_at_once']:.2%}" for f in found)]


def hundred_thousand() -> Iterable[list[str]]:
    """100 000 calls in cells of several sizes."""
    yield ["cells", "servers a cell", "full", "not at once", "refused", "wait p99", "Redis a cell"]
    start = base("estimated")
    for cells in (100, 25, 10):
        for full in (0.9, 0.95):
            setup = filled(start, 100_000, full, cells)
            found = run(replace(setup, seconds=600.0, warm_seconds=300.0))
            redis = sum(found["redis_a_second_and_cell"].values())
            yield [
                str(cells),
                str(setup.replicas),
                f"{found['slots_used']:.0%}",
                f"{found['not_at_once']:.2%}",
                f"{found['refused']:.2%}",
                f"{found['wait_p99']:.0f} s",
                f"{redis:,.0f}/s",
            ]


def faults() -> Iterable[list[str]]:
    """A cell that is lost, servers that die, updates."""
    yield ["what", "full before", "broken calls", "not at once", "refused", "update"]
    cell = filled(base("estimated"), 4000, 0.9)
    cases: list[tuple[str, Setup]] = [
        ("servers die once a day each", replace(cell, mtbf_seconds=86_400.0)),
        ("update, 1 spare device", replace(cell, update_at=0.0, spare=1, seconds=60_000.0)),
        ("update, 10 spare devices", replace(cell, update_at=0.0, spare=10, seconds=10_000.0)),
    ]
    start = base("estimated")
    for cells, full in ((4, 0.7), (4, 0.8), (10, 0.85), (10, 0.92), (25, 0.92)):
        setup = filled(start, 1000 * cells, full, cells)
        cases.append((f"1 of {cells} cells is lost", replace(setup, cell_lost_at=60.0)))
    for name, setup in cases:
        found = run(setup)
        took = found["update_seconds"]
        used = setup.load / (setup.cells * setup.replicas * setup.slots)
        yield [
            name,
            f"{used:.0%}",
            f"{found['broken']:.2%}",
            f"{found['not_at_once']:.2%}",
            f"{found['refused']:.2%}",
            "-" if took is None else f"{took / 3600:.1f} h",
        ]


def run(setup: Setup) -> dict[str, Any]:
    """Figures of one run."""
    return report(World(setup).run())


def main() -> None:
    """Prints the tables that are named, or all, as Markdown."""
    tables = {table.__name__: table for table in (headroom, hundred_thousand, faults)}
    for table in [tables[name] for name in sys.argv[1:]] or tables.values():
        print(f"\n{table.__doc__}\n")
        for number, row in enumerate(table()):
            print("| " + " | ".join(row) + " |")
            if not number:
                print("|" + "---|" * len(row))
            sys.stdout.flush()


if __name__ == "__main__":
    main()

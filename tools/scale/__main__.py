"""`python -m tools.scale`: simulates one setup and prints what came of it."""

from __future__ import annotations

import argparse
import math

from kaiwa.plan import steps
from kaiwa.plan.device import DEVICES
from kaiwa.plan.model import MODELS
from kaiwa.plan.sizing import Wanted, plan
from kaiwa.terminal import table
from tools.scale.report import report
from tools.scale.setup import Setup
from tools.scale.world import World


def main() -> None:
    """Reads the options, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tools.scale", description=__doc__)
    parser.add_argument("--device", default="cpu-2core", choices=DEVICES)
    parser.add_argument("--model", default="300m", choices=MODELS)
    parser.add_argument("--step", help="measured times of a step: 1:12.5,8:21 (milliseconds)")
    parser.add_argument("--calls", type=float, required=True, help="at once, on average")
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--full", type=float, default=0.85, help="share of slots that calls fill")
    parser.add_argument("--replicas", type=int, help="of a cell, in place of --full")
    parser.add_argument("--mtbf-hours", type=float)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--spare", type=int, default=1, help="devices of a cell")
    parser.add_argument("--lose-cell", action="store_true")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    given = steps.read(args.step) if args.step else None
    found = plan(MODELS[args.model], DEVICES[args.device], Wanted(calls=1), given)
    replicas = args.replicas or math.ceil(args.calls / args.full / found.slots / args.cells)
    setup = Setup(
        cells=args.cells,
        replicas=replicas,
        slots=found.slots,
        steps=found.steps,
        load=args.calls,
        mtbf_seconds=args.mtbf_hours * 3600 if args.mtbf_hours else None,
        update_at=0.0 if args.update else None,
        spare=args.spare,
        cell_lost_at=60.0 if args.lose_cell else None,
        seconds=args.seconds,
        seed=args.seed,
    )
    sizes = {"cells": args.cells, "replicas_a_cell": replicas, "slots_a_replica": found.slots}
    table.show({**sizes, **report(World(setup).run())}, as_json=args.json)


if __name__ == "__main__":
    main()

"""`python -m tools.gpu run --device cuda --out DIR`; `scripts/gpu/run` calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.gpu import page, plan, run
from tools.gpu.record import Record


def main() -> int:
    """Runs all stages, or one of them in this process."""
    parser = argparse.ArgumentParser(prog="scripts/gpu/run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run", help="all stages, each in a process of its own")
    stage = commands.add_parser("stage", help="one stage, in this process")
    stage.add_argument("name", choices=[stage.name for stage in plan.STAGES])
    for command in (whole, stage):
        command.add_argument("--device", default="cuda", help="cuda, cuda:N or candle-cpu")
        command.add_argument("--out", type=Path, required=True, help="folder of the report")
        command.add_argument("--sizes", choices=sorted(plan.SIZES), help="default: by device")
    whole.add_argument("--only", default="", help="names of stages, with commas between them")
    whole.add_argument("--counter", type=Path, help="library that counts calls of the driver")
    written = commands.add_parser("page", help="write the section of docs/gpu.md anew")
    written.add_argument("file", type=Path, nargs="?", default=page.REPORT, help="a gpu.json")
    args = parser.parse_args()
    if args.command == "page":
        page.write(args.file)
        return 0
    sizes = args.sizes or plan.default_sizes(args.device)
    if args.command == "run":
        only = [name for name in args.only.split(",") if name]
        unknown = set(only) - {stage.name for stage in plan.STAGES}
        if unknown:
            parser.error(f"no stage is called {', '.join(sorted(unknown))}")
        return run.run(args.device, args.out.resolve(), sizes, only, args.counter)
    from tools.gpu import stages

    record = Record(args.out / f"{args.name}.json")
    record.save()
    stages.ALL[plan.stage_called(args.name).work](
        stages.Ask(args.device, plan.SIZES[sizes]), record
    )
    return 0


sys.exit(main())

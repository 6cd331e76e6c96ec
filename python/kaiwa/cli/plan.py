"""`kaiwa plan`: how many devices a number of calls needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kaiwa.cli import options

if TYPE_CHECKING:
    from kaiwa.plan.device import Device
    from kaiwa.plan.model import Model
    from kaiwa.plan.sizing import Plan, Wanted


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    from kaiwa.plan.device import DEVICES
    from kaiwa.plan.model import KV_BYTES, MODELS, WEIGHT_BYTES

    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="how many devices a number of calls needs",
        description="Slots of a device from its memory and the time of a step, replicas with a "
        "spare, bandwidth, and the values of a Swarm file. Times of the processor are measured "
        "(docs/benchmarks.md). Those of GPUs are estimates from their sheets, which nobody has "
        "checked on one: measure your own, with scripts/gpu/run for --measured, or with "
        "`kaiwa bench lm` for --step.",
    )
    parser.add_argument(
        "--device",
        required=True,
        type=str.lower,
        choices=DEVICES,
        help="one for each replica (cpu-2core is the machine of docs/benchmarks.md); for one that "
        "is not here name the most similar, with --memory-gb and --step of your own",
    )
    parser.add_argument(
        "--calls", required=True, type=options.positive, metavar="N", help="conversations at once"
    )
    parser.add_argument(
        "--model",
        default="7b",
        metavar="MODEL",
        help=f"{', '.join(MODELS)} (7b is the released size), the name of a released model such as "
        "kyutai/moshika-candle-q8, demo, or a folder or file on this machine (default: 7b)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHT_BYTES,
        help="their form (default: that of a released model's name, otherwise int8)",
    )
    parser.add_argument(
        "--kv-dtype",
        choices=KV_BYTES,
        help="form of keys and values (default: int8 on processors, bfloat16 on GPUs)",
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--measured",
        metavar="FILE",
        help="gpu.json of a run of scripts/gpu/run: its steps with the window full, and the "
        "codec's (docs/gpu.md)",
    )
    times.add_argument(
        "--step",
        metavar="N:MS,...",
        help="measured times of a step with so many conversations and the window full: "
        "1:12.5,8:21 (default: the device's)",
    )
    parser.add_argument(
        "--memory-gb",
        type=options.positive_float,
        metavar="GB",
        help="memory, if it is not what the device usually has",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=360.0,
        metavar="S",
        help="longest conversation; 0 is no limit (default: 360)",
    )
    parser.add_argument(
        "--step-budget-ms",
        type=options.positive_float,
        default=60.0,
        metavar="MS",
        help="callers are let in while a step stays below this (default: 60)",
    )
    parser.add_argument(
        "--spare",
        type=options.not_negative,
        default=1,
        metavar="N",
        help="devices more than calls need, for failures and updates (default: 1)",
    )
    parser.add_argument(
        "--blocked",
        type=options.positive_float,
        metavar="SHARE",
        help="take --calls as an average, and let this share of callers find every slot taken "
        "(0.001; default: --calls is the most)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; see the parser for the arguments."""
    from dataclasses import replace

    from kaiwa.errors import InputError
    from kaiwa.plan import measured, sizing, stack, steps
    from kaiwa.plan.device import DEVICES
    from kaiwa.terminal import table

    if not 0 <= args.max_seconds < 1e8:
        raise InputError(f"--max-seconds is {args.max_seconds:g}; use seconds, 0 for no limit")
    (model, form), device = find_model(args.model), DEVICES[args.device]
    if args.memory_gb is not None:
        device = replace(device, memory=args.memory_gb * 1e9)
    wanted = sizing.Wanted(
        calls=args.calls,
        weights=args.weights or form or "int8",
        kv=args.kv_dtype,
        seconds=args.max_seconds or None,
        budget=args.step_budget_ms / 1000,
        spare=args.spare,
        blocked=args.blocked,
    )
    given = steps.read(args.step) if args.step is not None else None
    if args.measured is not None:
        given = measured.read(args.measured, model, wanted.weights)
    found = sizing.plan(model, device, wanted, given)
    rows = _rows(model, device, wanted, found)
    service = stack.stack(device, wanted, found)
    variables = stack.variables(device, wanted, found, args.model)
    if args.json:
        table.show({**rows, "stack": service, "deploy": variables}, as_json=True)
    else:
        table.show(rows, as_json=False)
        print(f"\n{service}")
        print("\n".join(f"{name}={value}" for name, value in variables.items()))
    return 0


def find_model(source: str) -> tuple[Model, str | None]:
    """A model by its name, or by the sizes that a folder or file on this machine tells; and the
    form of its weights if the name tells.

    Raises:
        InputError: it is neither.
        CheckpointError: the files are damaged.
    """
    from pathlib import Path

    from kaiwa.cli import info
    from kaiwa.errors import InputError
    from kaiwa.plan.model import MODELS, Model, released

    if source in MODELS:
        return MODELS[source], None
    if (known := released(source)) is not None:
        return known
    if source != "demo" and not Path(source).expanduser().exists():
        raise InputError(
            f"--model is {source!r}; use {', '.join(MODELS)}, demo, a released model such as "
            "kyutai/moshika-candle-q8, or a folder or file on this machine"
        )
    facts = info.language_model(source, None)
    sizes = (facts[name] for name in ("parameters", "dim", "num_layers", "context"))
    return Model(source, *sizes), None


def _rows(model: Model, device: Device, wanted: Wanted, found: Plan) -> dict[str, Any]:
    """What is printed: numbers with their units in the names."""
    times = found.steps
    return {
        "model": f"{model.name}, {model.parameters / 1e9:.2f} G parameters, {wanted.weights}",
        "device": f"{device.name}, {device.memory / 1e9:g} GB",
        "weights_gb": _round(found.weight_bytes / 1e9),
        "state_gb_a_call": _round(found.state_bytes / 1e9),
        "step_times": f"{'measured' if times.measured else 'not measured'}: {times.source}",
        "step_ms": {
            "one_call": _round(found.step_alone_seconds * 1000),
            "all_slots": _round(found.step_seconds * 1000),
        },
        "slots_by": {
            "memory": found.by_memory,
            "step_time": found.by_time,
            "one_server": found.by_server,
        },
        "slots_a_device": found.slots,
        "limited_by": found.limited_by,
        "slots_needed": found.needed,
        "replicas": found.replicas,
        "of_them_spare": wanted.spare,
        "cores_a_replica_without_model": _round(found.cores),
        "kbit_s_a_call": {"in": round(found.bits_in / 1000), "out": round(found.bits_out / 1000)},
        "mbit_s_in_all": {
            "in": _round(wanted.calls * found.bits_in / 1e6),
            "out": _round(wanted.calls * found.bits_out / 1e6),
        },
    }


def _round(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")

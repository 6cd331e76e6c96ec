"""The values of a plan as they stand in a stack file."""

from __future__ import annotations

import math

from kaiwa.plan.device import Device
from kaiwa.plan.sizing import Plan, Wanted

#: Seconds that stopping takes after the longest call.
_GRACE = 30


def stack(device: Device, wanted: Wanted, found: Plan) -> str:
    """Part of a service in a file for `docker stack deploy`, as YAML."""
    grace = "# no limit of a call: as long as an update may take"
    if wanted.seconds is not None:
        grace = f"stop_grace_period: {math.ceil(wanted.seconds) + _GRACE}s"
    memory = _memory(found)
    note = f"  # {wanted.spare} more may start: the spare" if wanted.spare else ""
    lines = [
        "environment:",
        f'  KAIWA_SLOTS: "{found.slots}"',
        f'  KAIWA_MAX_SECONDS: "{wanted.seconds or 0:g}"',
        f'  KAIWA_STEP_BUDGET_MS: "{wanted.budget * 1000:g}"',
        f"  KAIWA_KV_DTYPE: {found.kv}",
        grace,
        "deploy:",
        f"  replicas: {_running(wanted, found)}{note}",
        f"  update_config: {{order: {_order(wanted)}, parallelism: 1, failure_action: rollback}}",
        "  resources:",
        f"    limits: {{memory: {memory}G}}",
        "    reservations:",
        f"      memory: {memory}G",
    ]
    if device.gpu:
        lines += [
            "      generic_resources:",
            "        - discrete_resource_spec: {kind: gpu, value: 1}",
        ]
    return "\n".join(lines) + "\n"


def variables(device: Device, wanted: Wanted, found: Plan, model: str) -> dict[str, str]:
    """The same as the variables of deploy.sh and swarm-config.yml.

    Args:
        device: one for each replica.
        wanted: what was asked for.
        found: what came of it.
        model: as it was named; said again if a server would know it by that name.
    """
    served = {"KAIWA_MODEL": model} if model == "demo" or model.startswith("kyutai/") else {}
    return {
        **served,
        **({"GPU": "1"} if device.gpu else {}),
        "KAIWA_REPLICAS": str(_running(wanted, found)),
        "KAIWA_SLOTS": str(found.slots),
        # Whole seconds, as deploy.sh takes them.
        "KAIWA_MAX_SECONDS": str(math.ceil(wanted.seconds or 0)),
        "KAIWA_STEP_BUDGET_MS": f"{wanted.budget * 1000:g}",
        "KAIWA_KV_DTYPE": found.kv,
        "KAIWA_MEMORY": f"{_memory(found)}G",
        "KAIWA_UPDATE_ORDER": _order(wanted),
    }


def _running(wanted: Wanted, found: Plan) -> int:
    """Replicas that run while nothing happens. A spare device stays free: what replaces a replica
    starts there, and on a GPU that is taken it never would."""
    return found.replicas - wanted.spare


def _memory(found: Plan) -> int:
    """Gigabytes that a replica may use."""
    return math.ceil(found.host_bytes / 1e9 * 1.1)


def _order(wanted: Wanted) -> str:
    """Without a spare there is no device on which the new replica could start first."""
    return "start-first" if wanted.spare else "stop-first"

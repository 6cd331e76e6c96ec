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
    # Without a spare there is no device on which the new replica could start first.
    order = "start-first" if wanted.spare else "stop-first"
    memory = math.ceil(found.host_bytes / 1e9 * 1.1)
    lines = [
        "environment:",
        f'  KAIWA_SLOTS: "{found.slots}"',
        f'  KAIWA_MAX_SECONDS: "{wanted.seconds or 0:g}"',
        f'  KAIWA_STEP_BUDGET_MS: "{wanted.budget * 1000:g}"',
        f"  KAIWA_KV_DTYPE: {found.kv}",
        grace,
        "deploy:",
        f"  replicas: {found.replicas}",
        f"  update_config: {{order: {order}, parallelism: 1, failure_action: rollback}}",
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

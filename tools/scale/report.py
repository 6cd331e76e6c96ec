"""What a run came to."""

from __future__ import annotations

from typing import Any

from kaiwa.server.shared.state import PROBE_SECONDS, RENEW_SECONDS
from tools.scale.world import World


def report(world: World) -> dict[str, Any]:
    """Figures of a run: shares of callers, seconds, questions to Redis a second and cell."""
    setup, counts = world.setup, world.counts
    total = sum(world.time_with)
    busy = sum(n * seconds for n, seconds in enumerate(world.time_with))
    waits = sorted(counts.waits)
    waited = [w for w in waits if w > 0]
    busiest = max(counts.began_in_second.values(), default=0)
    ends = [cell.updated_at for cell in world.cells]
    updated = [end for end in ends if end is not None]
    began_at = setup.warm_seconds + (setup.update_at or 0.0)
    return {
        "slots": setup.cells * setup.replicas * setup.slots,
        "callers": counts.callers,
        "refused": _share(counts.refused, counts.callers),
        "tried_again": _share(counts.tried_again, counts.callers),
        "not_at_once": _share(len(waited), counts.callers),
        "wait_p99": waited[int(len(waited) * 0.99)] if waited else 0.0,
        "broken": _share(counts.broken, counts.began),
        "slots_used": busy / (total * setup.slots) if total else 0.0,
        "step_mean_ms": 1000 * _mean_step(world),
        "step_full_ms": 1000 * setup.steps.seconds(setup.slots),
        "update_seconds": max(updated) - began_at if len(updated) == len(ends) else None,
        "busiest_second": busiest,
        "redis_a_second_and_cell": redis_load(world, busiest),
    }


def redis_load(world: World, busiest: int) -> dict[str, float]:
    """Commands of one cell's Redis a second: those of the busiest second, and what is renewed.

    A call that begins with a token is one `SET`, one script for its limits, and three writes (its
    lease, where it is, and both taken back at the end); a server that has calls renews all of
    them, one script for each key.
    """
    setup = world.setup
    used = world.time_with
    total = sum(used) or 1.0
    live = setup.replicas * sum(n * s for n, s in enumerate(used)) / total
    return {
        "begin_and_end": 6.0 * busiest / setup.cells,
        "renewed_leases": live / RENEW_SECONDS,
        "renewed_addresses": live / RENEW_SECONDS,
        "probes": setup.replicas / PROBE_SECONDS,
    }


def _mean_step(world: World) -> float:
    """Mean time of a step, over the time that servers have any calls."""
    steps = world.setup.steps
    pairs = [(n, s) for n, s in enumerate(world.time_with) if n]
    total = sum(s for _, s in pairs)
    return sum(steps.seconds(n) * s for n, s in pairs) / total if total else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

"""What a world is like: sizes, limits, habits of its callers, and how much goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

#: Every kind of fault.
FAULTS = (
    "crash",  # a server dies between two awaits, and is started again
    "restart",  # a server drains, stops, and is started again
    "stop",  # a server stands still between two awaits, as on a slow disk or an overloaded machine
    "engine hangs",
    "step fails",
    "step panics",
    "step row",
    "device fails",
    "slow steps",
    "redis stops",
    "redis loses all",
    "redis is slow",
    "redis refuses writes",
    "redis cuts answers",
    "redis unreachable",
    "redis connections break",
    "servers parted",
    "clock jumps",
    "redis clock jumps",
    "key revoked",
    "slow network",
    "operator ends",
)


@dataclass(frozen=True)
class KeyPlan:
    """What one key allows."""

    concurrency: int | None
    per_minute: int | None
    max_seconds: float | None


@dataclass(frozen=True)
class Plan:
    """One world.

    Attributes:
        machines: servers at once.
        slots, queue: of each server.
        callers: at most at a time.
        keys: what the keys allow; empty: callers need none.
        shared: servers share their state through Redis.
        redis_down: policy of the servers, `open` or `closed`.
        call_seconds: usual length of a call.
        lively, quiet: seconds of the times in which much happens, and of those in which callers
            hardly speak and nothing goes wrong.
        fault_every: seconds between two faults in lively times; infinite: none.
        slack: seconds by which timers may be late in quiet times.
        faults: which there are.
    """

    machines: int
    slots: int
    queue: int
    callers: int
    keys: tuple[KeyPlan, ...]
    shared: bool
    redis_down: str
    call_seconds: float
    lively: float
    quiet: float
    fault_every: float
    queue_seconds: float
    resume_seconds: float
    idle_seconds: float
    max_seconds: float
    token_seconds: float
    step_seconds: tuple[float, float]
    load_seconds: float
    slack: float = 10.0
    faults: tuple[str, ...] = field(default=FAULTS)


def dense(rng: random.Random) -> Plan:
    """A small world in which limits are reached all the time."""
    machines = rng.choice((1, 2, 2, 3))
    slots = rng.randint(1, 5)
    shared = machines > 1 or rng.random() < 0.3
    keys = tuple(
        KeyPlan(
            rng.choice((None, 1, 2, 3, 4)),
            rng.choice((None, None, 3, 6, 12)),
            rng.choice((None, None, 20.0, 60.0)),
        )
        for _ in range(rng.choice((0, 1, 2, 3)))
    )
    return Plan(
        machines=machines,
        slots=slots,
        queue=rng.choice((0, 1, 3)),
        callers=int(machines * slots * rng.uniform(0.8, 2.5)) + 1,
        keys=keys,
        shared=shared,
        redis_down=rng.choice(("open", "closed")),
        call_seconds=rng.choice((5.0, 20.0, 60.0)),
        lively=120.0,
        quiet=0.0,
        fault_every=rng.choice((2.0, 5.0, 15.0, float("inf"))),
        queue_seconds=rng.choice((0.0, 2.0, 10.0)),
        resume_seconds=rng.choice((0.0, 5.0, 30.0)),
        idle_seconds=rng.choice((8.0, 60.0)),
        max_seconds=rng.choice((0.0, 40.0)),
        token_seconds=rng.choice((5.0, 60.0)),
        step_seconds=rng.choice(((0.0, 0.0), (0.01, 0.002), (0.03, 0.01))),
        load_seconds=rng.choice((0.1, 3.0)),
        slack=0.0,
        faults=tuple(rng.sample(FAULTS, rng.randint(3, len(FAULTS)))),
    )


def restless(rng: random.Random) -> Plan:
    """One server without limits, whose callers hardly stay, are cut off and come back."""
    return replace(
        dense(rng),
        machines=1,
        shared=False,
        keys=(),
        slots=10,
        callers=25,
        call_seconds=1.0,
        lively=60.0,
        fault_every=15.0,
        queue_seconds=2.0,
        resume_seconds=5.0,
        load_seconds=0.1,
        step_seconds=(0.0, 0.0),
        faults=("slow network", "stop", "engine hangs"),
    )


def large(rng: random.Random) -> Plan:
    """Large servers with long calls, in which little happens for most of the time."""
    machines = rng.choice((2, 3))
    slots = rng.choice((64, 128))
    return Plan(
        machines=machines,
        slots=slots,
        queue=8,
        callers=int(machines * slots * rng.uniform(0.8, 1.05)),
        keys=tuple(
            KeyPlan(rng.choice((None, slots // 2, slots)), rng.choice((None, 60)), None)
            for _ in range(4)
        ),
        shared=True,
        redis_down=rng.choice(("open", "closed")),
        call_seconds=rng.choice((1800.0, 5400.0)),
        lively=15.0,
        quiet=rng.choice((1800.0, 3600.0)),
        fault_every=3.0,
        queue_seconds=10.0,
        resume_seconds=30.0,
        idle_seconds=120.0,
        max_seconds=0.0,
        token_seconds=60.0,
        step_seconds=(0.005, 0.0002),
        load_seconds=2.0,
        faults=FAULTS,
    )

"""What is simulated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kaiwa.plan.steps import StepTimes


@dataclass(frozen=True)
class Setup:
    """Cells of equal servers, each behind a balancer of its own, and the calls that come.

    A cell is one Swarm or Kubernetes cluster with its balancer and its Redis. Callers choose one
    at random, as DNS does, and another after a refusal. Times are in seconds.

    Attributes:
        cells: how many.
        replicas: servers of a cell.
        slots: conversations of a server.
        steps: what its step takes.
        load: conversations at once, on average, if nobody were refused; over all cells.
        mean_seconds, sigma: of how long people would talk (lognormal).
        max_seconds: a call ends by then.
        queue: callers that may wait at a server; `queue_seconds` at the longest.
        check_seconds: between two checks of a server by its balancer.
        retries: attempts more that a refused caller makes, each after `retry_seconds`.
        mtbf_seconds: mean time until a server dies; None is never.
        load_seconds: until a new server is ready.
        update_at: when a rolling update of every cell begins; None is never.
        spare: devices of a cell beyond its replicas, on which new servers may start.
        cell_lost_at: when one cell disappears; None is never. After `dns_seconds` nobody is sent
            there any more.
        seconds: that are looked at, after `warm_seconds` that are not.
        seed: same seed, same run.
    """

    cells: int
    replicas: int
    slots: int
    steps: StepTimes
    load: float
    mean_seconds: float = 120.0
    sigma: float = 1.0
    max_seconds: float = 360.0
    queue: int = 8
    queue_seconds: float = 30.0
    check_seconds: float = 2.0
    retries: int = 3
    retry_seconds: float = 5.0
    mtbf_seconds: float | None = None
    load_seconds: float = 60.0
    update_at: float | None = None
    spare: int = 1
    cell_lost_at: float | None = None
    dns_seconds: float = 60.0
    seconds: float = 1800.0
    warm_seconds: float = 600.0
    seed: int = 0

    @property
    def mu(self) -> float:
        """Parameter of the lognormal distribution."""
        return math.log(self.mean_seconds) - self.sigma**2 / 2

    @property
    def held_seconds(self) -> float:
        """Mean length of a call, which ends at the limit."""
        if self.sigma == 0:
            return min(self.mean_seconds, self.max_seconds)
        z = (math.log(self.max_seconds) - self.mu) / self.sigma
        return self.mean_seconds * _normal(z - self.sigma) + self.max_seconds * (1 - _normal(z))

    @property
    def arrivals(self) -> float:
        """Callers a second."""
        return self.load / self.held_seconds


def _normal(z: float) -> float:
    """The normal distribution."""
    return (1 + math.erf(z / math.sqrt(2))) / 2

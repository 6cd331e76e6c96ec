"""How fast this machine reads memory, and how near a step comes to it.

A step at one slot reads every weight once and does little with each, so the reading is its floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kaiwa import _native

#: Much larger than the caches.
BUFFER = 1 << 30

#: Seconds of reading per measurement.
SECONDS = 1.0


@dataclass
class Bandwidth:
    """Bytes per second, one figure a round."""

    rounds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Adds the figure of this round."""
        self.rounds.append(_native.read_bandwidth(BUFFER, SECONDS))

    @property
    def median(self) -> float | None:
        """Over the rounds; None where it was not measured."""
        return float(np.median(self.rounds)) if self.rounds else None


def rate(step_ms: float, step_bytes: int) -> float:
    """Bytes per second of a step."""
    return step_bytes / (step_ms * 1e-3)


@dataclass(frozen=True)
class Stage:
    """A part of a step."""

    name: str
    ms: float
    bytes: int

    @property
    def rate(self) -> float | None:
        """Bytes per second; None where no weights are read."""
        return rate(self.ms, self.bytes) if self.bytes and self.ms > 0 else None


def stages(
    seconds: Sequence[Mapping[str, float]],
    step_bytes: Sequence[tuple[str, int]],
    history_bytes: int,
) -> list[Stage]:
    """Parts of a step: the median over rounds of the milliseconds of a step.

    Args:
        seconds: by round, seconds of one step per stage.
        step_bytes: bytes of weights per stage; a name may occur several times.
        history_bytes: keys and values that "attention" reads, unless `step_bytes` counts them.
    """
    read: dict[str, int] = {}
    for name, count in step_bytes:
        read[name] = read.get(name, 0) + count
    if not read.get("attention"):
        read["attention"] = history_bytes
    names = list(dict.fromkeys([name for part in seconds for name in part]))
    return [
        Stage(name, 1e3 * float(np.median([s.get(name, 0.0) for s in seconds])), read.get(name, 0))
        for name in names
    ]

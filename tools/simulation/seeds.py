"""Worlds in which a bug was found. They are lived through again in every run of the tests.

A seed gives the same world for as long as the simulation is the same. So each bug is also named
here, and `tests/simulation/test_seeds.py` plants it again: its seed still has to find it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """A bug that a world found.

    Attributes:
        seed, kind: of the world; see `tools.simulation.world.run_kind`.
        invariant: that did not hold.
        bug: names the bug in the tests.
        what: happened.
    """

    seed: int
    kind: str
    invariant: str
    bug: str
    what: str


FOUND = (
    Found(
        3,
        "restless",
        "ends",
        "held_before_it_began",
        "A call whose connection was lost before the server saw that it has its slot was held, "
        "though nobody could take it up again, and counted as ended, but not as begun.",
    ),
)

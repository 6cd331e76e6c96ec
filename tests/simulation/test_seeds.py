"""Worlds in which bugs were found: sound today, and each still finds its bug if that is planted
again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tools.simulation.seeds import FOUND, Found
from tools.simulation.world import run_kind

from kaiwa.server.call.call import Call

Patch = pytest.MonkeyPatch


def held_before_it_began(patch: Patch) -> None:
    """A call that lost its connection before the server had seen that it has its slot was held,
    though its client knew no token to take it up again, and its end was counted, but no begin."""
    hold, end = Call._hold, Call._end_session
    may_hold = property(lambda self: True)
    patch.setattr(Call, "_had_slot", property(lambda self: self._active))

    def hold_anything(self: Call, *args: object) -> bool:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Call, "_had_slot", may_hold)
            return hold(self, *args)  # type: ignore[arg-type]

    patch.setattr(Call, "_hold", hold_anything)
    patch.setattr(Call, "_end_session", end)


PLANTS: dict[str, Callable[[Patch], None]] = {"held_before_it_began": held_before_it_began}


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.bug)
def test_a_bug_stays_mended(found: Found) -> None:
    assert run_kind(found.seed, found.kind).violation is None


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.bug)
def test_its_seed_still_finds_the_bug(found: Found, monkeypatch: Patch) -> None:
    PLANTS[found.bug](monkeypatch)
    violation = run_kind(found.seed, found.kind).violation
    assert violation is not None
    assert violation.invariant == found.invariant

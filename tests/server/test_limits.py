"""Conversations at once and connections a minute."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kaiwa.server.limits import WINDOW, Lease, LimitReached, Limits


def refused(limits: Limits, now: float, **given: Any) -> tuple[str, int] | None:
    """Why a key was not let in, and for how long; None if it was."""
    try:
        limits.enter("alice", now, **given)
    except LimitReached as reached:
        return reached.code, reached.retry_after
    return None


def test_without_limits_everybody_enters_and_nothing_is_remembered() -> None:
    limits = Limits()
    leases = [limits.enter("alice", 0) for _ in range(1000)]
    assert limits.live("alice") == 1000
    for lease in leases:
        lease.release()
    assert limits.live("alice") == 0
    assert not any(vars(limits).values())


def test_conversations_at_once() -> None:
    limits = Limits()
    first = limits.enter("alice", 0, concurrency=2)
    limits.enter("alice", 0, concurrency=2)
    assert refused(limits, 0, concurrency=2) == ("concurrency", 5)
    assert limits.enter("bob", 0, concurrency=1)
    first.release()
    assert refused(limits, 0, concurrency=2) is None
    assert limits.live("alice") == 2


def test_a_lease_is_released_once() -> None:
    limits = Limits()
    other = limits.enter("alice", 0)
    with limits.enter("alice", 0) as lease:
        assert not lease.released
        assert limits.live("alice") == 2
        lease.release()
    lease.release()
    assert lease.released
    assert limits.live("alice") == 1
    other.release()
    with pytest.raises(ZeroDivisionError), limits.enter("alice", 0):
        _ = 1 / 0
    assert limits.live("alice") == 0


@pytest.mark.parametrize(
    ("times", "now", "wait"),
    [
        ([0, 10, 20], 20, 40),
        ([0, 10, 20], 59.5, 1),
        ([0, 10, 20], 30.1, 30),
        ([0, 10, 20], 60, None),
        ([0, 0, 0], 60, None),
        ([0, 10, 20, 60], 61, 9),
        ([0, 10, 20, 60, 70], 71, 9),
        ([0, 10], 11, None),
        ([], 0, None),
    ],
)
def test_connections_a_minute(times: list[float], now: float, wait: int | None) -> None:
    limits = Limits()
    for time in times:
        limits.enter("alice", time, per_minute=3).release()
    found = refused(limits, now, per_minute=3)
    assert found == (None if wait is None else ("rate", wait))


def test_coming_back_when_told_works_and_not_before() -> None:
    generator = random.Random(1)
    limits, now = Limits(), 0.0
    for _ in range(300):
        now += generator.random() * 8
        found = refused(limits, now, per_minute=4)
        if found is not None:
            assert 1 <= found[1] <= WINDOW
            assert found[1] <= 1 or refused(limits, now + found[1] - 1.001, per_minute=4)
            now += found[1]
            assert refused(limits, now, per_minute=4) is None


def test_no_window_ever_holds_more() -> None:
    generator = random.Random(2)
    limits, now, entered = Limits(), 0.0, []
    for _ in range(2000):
        now += generator.random() * 5
        if refused(limits, now, per_minute=7) is None:
            entered.append(now)
    for start in entered:
        assert sum(start <= time < start + WINDOW for time in entered) <= 7


def test_refused_attempts_do_not_count() -> None:
    limits = Limits()
    lease = limits.enter("alice", 0, concurrency=1, per_minute=2)
    for _ in range(100):
        assert refused(limits, 1, concurrency=1, per_minute=2) == ("concurrency", 5)
    lease.release()
    assert refused(limits, 1, concurrency=1, per_minute=2) is None
    assert refused(limits, 1, concurrency=1, per_minute=2) == ("rate", 59)


def test_a_limit_may_change_meanwhile() -> None:
    limits = Limits()
    for second in range(5):
        limits.enter("alice", second, per_minute=5).release()
    # Room for the second connection comes when the one at second 4 leaves the window, less one.
    assert refused(limits, 5, per_minute=2) == ("rate", 58)
    assert refused(limits, 5, per_minute=6) is None


def test_what_is_taken_up_again_counts_once() -> None:
    limits = Limits()
    held = limits.enter("alice", 0, concurrency=1)
    assert limits.enter("alice", 1, concurrency=1, held=held) is held
    assert limits.live("alice") == 1
    # Of another key, or over already: an ordinary connection.
    other = limits.enter("bob", 1, concurrency=1, held=held)
    assert other is not held
    held.release()
    again = limits.enter("alice", 1, concurrency=1, held=held)
    assert again is not held
    assert limits.live("alice") == 1


def test_taking_up_again_is_a_connection_too() -> None:
    limits = Limits()
    held = limits.enter("alice", 0, per_minute=2)
    limits.enter("alice", 0, per_minute=2, held=held)
    with pytest.raises(LimitReached):
        limits.enter("alice", 0, per_minute=2, held=held)
    assert not held.released


def test_keys_of_long_ago_are_forgotten() -> None:
    limits = Limits()
    for number in range(500):
        limits.enter(f"key{number}", number, per_minute=9).release()
    assert len(limits._recent) <= WINDOW + 1


def test_a_lease_tells_whose_it_is() -> None:
    lease = Limits().enter("alice", 0)
    assert isinstance(lease, Lease)
    assert lease.key_id == "alice"
    assert "alice" in repr(lease)

"""Every invariant finds a bug that is planted for it. The bugs are in this file alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tools.simulation.checks import INVARIANTS
from tools.simulation.plan import KeyPlan, Plan
from tools.simulation.world import run

from kaiwa.engine import Engine
from kaiwa.server.access import Access
from kaiwa.server.call.call import Call
from kaiwa.server.call.held import HeldCall, HeldCalls
from kaiwa.server.call.live import LiveCalls
from kaiwa.server.limits import Lease, Limits
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.state import SharedState
from kaiwa.server.tokens import LocalTokens, Redeemed, _digest
from kaiwa.session import AsyncSession, Dispatcher

Patch = pytest.MonkeyPatch

#: A small world without faults, in which callers come, are lost, and come back all the time.
CALM = Plan(
    machines=2,
    slots=4,
    queue=1,
    callers=14,
    keys=(KeyPlan(2, None, None), KeyPlan(3, 5, None)),
    shared=True,
    redis_down="open",
    call_seconds=6.0,
    lively=30.0,
    quiet=0.0,
    fault_every=float("inf"),
    queue_seconds=2.0,
    resume_seconds=5.0,
    idle_seconds=20.0,
    max_seconds=20.0,
    token_seconds=60.0,
    step_seconds=(0.01, 0.002),
    load_seconds=0.1,
    slack=0.0,
)
ALONE = replace(CALM, machines=1, shared=False)
#: Without keys, and so without limits.
FOR_ALL = replace(CALM, keys=())


def a_call_leaves_its_slot(patch: Patch) -> None:
    kept: list[Any] = []

    def close(self: AsyncSession) -> None:
        # Without this the session would end with its last reference.
        kept.append(self._native)
        self._dispatcher.remove(self)

    patch.setattr(AsyncSession, "close", close)
    patch.setattr(AsyncSession, "ask_end", lambda *_: None)


def a_held_call_stays_held(patch: Patch) -> None:
    patch.setattr(HeldCalls, "remove", lambda *_: None)


def audio_is_pushed_twice(patch: Patch) -> None:
    push = AsyncSession.push

    def twice(self: AsyncSession, pcm: Any) -> None:
        push(self, pcm)
        push(self, pcm)

    patch.setattr(AsyncSession, "push", twice)


def redis_is_not_asked_about_tokens(patch: Patch) -> None:
    async def yes(*_: object) -> bool:
        return True

    patch.setattr(SharedState, "mark_used", yes)


def a_token_is_not_used_up(patch: Patch) -> None:
    def redeem(self: LocalTokens, text: str, now: float) -> Redeemed | None:
        found = self._tokens.get(_digest(text))
        return Redeemed(found[0]) if found is not None else None

    patch.setattr(LocalTokens, "redeem", redeem)


def redis_is_not_asked_about_limits(patch: Patch) -> None:
    async def room(*_: object, **__: object) -> None:
        return None

    patch.setattr(SharedState, "enter", room)


def a_lease_counts_until_the_slot_is_there(patch: Patch) -> None:
    enter = Limits.enter

    def counted_off(self: Limits, key_id: str, now: float, **more: Any) -> Lease:
        lease = enter(self, key_id, now, **more)
        self._live[key_id] = 1
        return lease

    patch.setattr(Limits, "enter", counted_off)
    patch.setattr(Limits, "_end", lambda *_: None)


def connections_are_not_counted(patch: Patch) -> None:
    enter = Limits.enter

    def without_rate(self: Limits, key_id: str, now: float, **more: Any) -> Lease:
        return enter(self, key_id, now, **{**more, "per_minute": None})

    patch.setattr(Limits, "enter", without_rate)


def the_end_of_a_held_call_is_not_counted(patch: Patch) -> None:
    def end(self: HeldCalls, held: HeldCall) -> None:
        held.session.close()
        held.lease.release()

    patch.setattr(HeldCalls, "end", end)


def an_end_is_counted_for_another_reason(patch: Patch) -> None:
    end = Call._end_session

    def as_an_error(self: Call, admitted: Any) -> None:
        patch.setattr(AsyncSession, "end_reason", property(lambda _: "error"))
        end(self, admitted)

    patch.setattr(Call, "_end_session", as_an_error)


def two_ends_of_one_call_are_written_down(patch: Patch) -> None:
    audit = Call._audit

    def twice(self: Call, event: str, **facts: Any) -> None:
        audit(self, event, **facts)
        if event == "end":
            audit(self, event, **facts)

    patch.setattr(Call, "_audit", twice)


def an_end_does_not_say_what_to_do(patch: Patch) -> None:
    ask_end = AsyncSession.ask_end

    def curtly(self: AsyncSession, reason: str = "client", message: str = "") -> None:
        ask_end(self, reason, "no more" if message else "")

    patch.setattr(AsyncSession, "ask_end", curtly)


def a_refusal_does_not_say_when_to_come_back(patch: Patch) -> None:
    refusal = Access.limit_refusal

    def for_ever(self: Access, *args: Any) -> Refused:
        refused = refusal(self, *args)
        return Refused(refused.status, refused.code, refused.message)

    patch.setattr(Access, "limit_refusal", for_ever)


def a_refusal_does_not_say_what_to_do(patch: Patch) -> None:
    patch.setattr(Access, "bad_token", lambda _: Refused(401, "bad_token", "no"))


def calls_are_remembered(patch: Patch) -> None:
    patch.setattr(LiveCalls, "remove", lambda *_: None)


def tokens_of_lost_calls_are_remembered(patch: Patch) -> None:
    patch.setattr(HeldCalls, "unregister_resumable", lambda *_: None)


def nobody_is_woken(patch: Patch) -> None:
    patch.setattr(Dispatcher, "_wake", lambda *_: None)


def a_call_does_not_notice_that_its_client_went(patch: Patch) -> None:
    converse = Call._converse

    async def go_on(self: Call, session: AsyncSession) -> None:
        await converse(self, session)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 3600)

    patch.setattr(Call, "_converse", go_on)


def looking_after_calls_fails(patch: Patch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("planted")

    patch.setattr(Call, "_watch_line", fail)


def resuming_fails(patch: Patch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("planted")

    patch.setattr(Engine, "resume", fail)


BUGS: tuple[tuple[str, Callable[[Patch], None], Plan], ...] = (
    ("slots", a_call_leaves_its_slot, CALM),
    ("slots", a_held_call_stays_held, FOR_ALL),
    ("frames", audio_is_pushed_twice, CALM),
    ("tokens", redis_is_not_asked_about_tokens, CALM),
    ("tokens", a_token_is_not_used_up, ALONE),
    ("limits", redis_is_not_asked_about_limits, CALM),
    ("limits", a_lease_counts_until_the_slot_is_there, ALONE),
    ("limits", connections_are_not_counted, ALONE),
    ("ends", the_end_of_a_held_call_is_not_counted, CALM),
    ("ends", an_end_is_counted_for_another_reason, CALM),
    ("ends", two_ends_of_one_call_are_written_down, CALM),
    ("remedies", an_end_does_not_say_what_to_do, FOR_ALL),
    ("remedies", a_refusal_does_not_say_when_to_come_back, ALONE),
    ("remedies", a_refusal_does_not_say_what_to_do, CALM),
    ("memory", calls_are_remembered, CALM),
    ("memory", tokens_of_lost_calls_are_remembered, CALM),
    ("waiting", nobody_is_woken, CALM),
    ("waiting", a_call_does_not_notice_that_its_client_went, CALM),
    ("errors", looking_after_calls_fails, CALM),
    ("errors", resuming_fails, CALM),
)


def test_the_world_is_sound_without_a_planted_bug() -> None:
    for seed, plan in enumerate((CALM, ALONE)):
        assert run(seed, plan=plan).violation is None


def test_every_invariant_has_a_planted_bug() -> None:
    assert {invariant for invariant, _, _ in BUGS} == set(INVARIANTS)


@pytest.mark.parametrize(
    ("invariant", "plant", "plan"), BUGS, ids=[plant.__name__ for _, plant, _ in BUGS]
)
def test_a_planted_bug_is_found(
    invariant: str, plant: Callable[[Patch], None], plan: Plan, monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    found: list[str] = []
    # Which caller does what when is left to chance.
    for seed in range(5):
        violation = run(seed, plan=plan).violation
        found.append(violation.invariant if violation is not None else "nothing")
        if found[-1] == invariant:
            return
    pytest.fail(f"found {found}")

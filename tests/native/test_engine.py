"""Sessions of an engine: limits, places, threads, loops, and ends of every kind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kaiwa
from kaiwa import _native
from kaiwa.errors import CapacityError, ClosedError, InputError
from kaiwa.session import Monologue

FRAME = np.full(1920, 0.25, np.float32)


@pytest.fixture
def engine() -> Iterator[kaiwa.Engine]:
    """Two slots, one place in the queue, no model."""
    with kaiwa.Engine.echo(slots=2, queue=1) as engine:
        yield engine
        wait_empty(engine)


def wait_empty(engine: kaiwa.Engine) -> None:
    until = time.monotonic() + 5
    while engine.readiness.slots_used or engine.readiness.queue:
        assert time.monotonic() < until, engine.sessions()
        time.sleep(0.005)


async def eventually(true: Callable[[], bool]) -> None:
    """Waits for something to become true."""
    until = time.monotonic() + 5
    while not true():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


def end_of(session: kaiwa.BlockingSession) -> kaiwa.EndEvent:
    *_, last = session
    assert isinstance(last, kaiwa.EndEvent)
    return last


# ---- what is said comes back -------------------------------------------------------------------


def test_all_that_is_sent_is_answered_in_order(engine: kaiwa.Engine) -> None:
    said = np.linspace(-0.5, 0.5, 7 * 1920, dtype=np.float32)
    with engine.session() as session:
        for piece in np.array_split(said, 11):
            session.send(piece)
        session.finish()
        events = [e for e in session if isinstance(e, kaiwa.AudioEvent)]
    np.testing.assert_array_equal(np.concatenate([e.pcm for e in events]), said)
    assert [e.t for e in events] == [round(0.08 * n, 3) for n in range(7)]


def test_a_pause_hears_nothing_and_goes_on(engine: kaiwa.Engine) -> None:
    with engine.session() as session:
        session.send(FRAME)
        session.pause()
        session.send(-FRAME)
        session.unpause()
        session.send(FRAME * np.float32(0.5))
        session.finish()
        heard = [float(e.pcm[0]) for e in session if isinstance(e, kaiwa.AudioEvent)]
    assert heard == [0.25, 0.125]


# ---- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_frames", "max_seconds"])
def test_a_limit_ends_the_session(engine: kaiwa.Engine, limit: str) -> None:
    options: dict[str, int | float] = {limit: 3 if limit == "max_frames" else 0.2}
    with engine.session(**options) as session:  # type: ignore[arg-type]
        for _ in range(3):
            session.send(FRAME)
        end = end_of(session)
    assert end.reason == "expired"
    assert "limit" in end.message


def test_silence_ends_the_session(engine: kaiwa.Engine) -> None:
    with engine.session(idle_seconds=0.1) as session:
        assert end_of(session).reason == "idle"


def test_places_in_the_queue_and_none(engine: kaiwa.Engine) -> None:
    with engine.session(), engine.session():
        with pytest.raises(CapacityError) as full, engine.session(wait=0):
            pass
        assert full.value.reason == "full"
        began = time.monotonic()
        with pytest.raises(CapacityError), engine.session(wait=0.3):
            pass
        assert 0.25 < time.monotonic() - began < 2
    with engine.session():
        pass


async def test_who_waits_is_told_the_place_and_gets_the_slot(engine: kaiwa.Engine) -> None:
    async with engine.session() as first, engine.session():
        waiting = engine.session().open()
        event = await waiting.next()
        assert event == kaiwa.StateEvent("queued", 1)
        first.close()
        event = await asyncio.wait_for(waiting.next(), 5)
        assert event == kaiwa.StateEvent("active", 0)
        waiting.close()


async def test_who_gives_up_waiting_takes_no_slot(engine: kaiwa.Engine) -> None:
    async def wait() -> None:
        async with engine.session():
            pytest.fail("there was no slot")

    async with engine.session(), engine.session():
        task = asyncio.create_task(wait())
        await eventually(lambda: engine.readiness.queue == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: engine.readiness.queue == 0)


def test_a_drain_takes_nobody_and_ends_nobody(engine: kaiwa.Engine) -> None:
    with engine.session() as session:
        engine.drain()
        with pytest.raises(CapacityError) as refused, engine.session():
            pass
        assert refused.value.reason == "draining"
        session.send(FRAME)
        session.finish()
        assert end_of(session).reason == "finished"


# ---- lost connections --------------------------------------------------------------------------


async def test_a_held_session_goes_on_where_it_was(engine: kaiwa.Engine) -> None:
    async with engine.session() as session:
        await session.send(FRAME)
        async for event in session:
            if isinstance(event, kaiwa.AudioEvent):
                break
        token = engine.hold(session, 5)
        assert token is not None
        assert engine.readiness.slots_used == 1
        again = engine.resume(token)
        assert again is not None
        assert engine.resume(token) is None
        await again.send(FRAME)
        again.finish()
        times = [e.t async for e in again if isinstance(e, kaiwa.AudioEvent)]
        assert times == [0.08]


async def test_a_hold_ends_with_its_time(engine: kaiwa.Engine) -> None:
    async with engine.session() as session:
        token = engine.hold(session, 0.1)
        assert token is not None
        await eventually(lambda: engine.readiness.slots_used == 0)
        assert engine.resume(token) is None


# ---- threads, loops, ends ----------------------------------------------------------------------


def test_a_thread_for_each_session() -> None:
    heard: dict[int, list[float]] = {}

    def talk(engine: kaiwa.Engine, number: int) -> None:
        with engine.session() as session:
            for _ in range(20):
                session.send(FRAME * number)
            session.finish()
            heard[number] = [float(e.pcm[0]) for e in session if isinstance(e, kaiwa.AudioEvent)]

    with kaiwa.Engine.echo(slots=8) as engine:
        threads = [threading.Thread(target=talk, args=(engine, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert heard == {n: [0.25 * n] * 20 for n in range(8)}


def test_one_thread_sends_while_another_listens(engine: kaiwa.Engine) -> None:
    with engine.session() as session:

        def say() -> None:
            for _ in range(100):
                session.send(FRAME)
            session.finish()

        sender = threading.Thread(target=say)
        sender.start()
        times = [e.t for e in session if isinstance(e, kaiwa.AudioEvent)]
        sender.join(5)
    assert times == [round(0.08 * n, 3) for n in range(100)], "all, and in order"


class _NoRoom:
    """A native session without room, told what happens."""

    id = 1

    def __init__(self) -> None:
        self.news: list[Any] = []

    def events(self) -> list[Any]:
        news, self.news = self.news, []
        return news

    def has_room(self) -> bool:
        return False

    def ended(self) -> bool:
        return False

    def send_pcm(self, pcm: object) -> None:
        pass


async def test_a_task_that_sends_keeps_no_event_from_one_that_reads() -> None:
    native: Any = _NoRoom()
    nobody: Any = SimpleNamespace(add=lambda _: None)
    session = kaiwa.AsyncSession(native, Monologue(None), 0, nobody)
    sender = asyncio.create_task(session.send(FRAME))
    await asyncio.sleep(0)
    # The reader waits second, and so is woken second.
    reader = asyncio.create_task(session.next())
    await asyncio.sleep(0)
    with kaiwa.Engine.echo(slots=1) as engine, engine.session() as other:
        other.pause()
        native.news += other._native.events()
    session.wake()
    event = await asyncio.wait_for(reader, 2)
    assert isinstance(event, kaiwa.StateEvent)
    assert event.state == "paused"
    assert not sender.done()
    sender.cancel()


FORK = """
import os, signal, sys
import numpy as np
import kaiwa

engine = kaiwa.Engine.echo(slots=2)
before = engine.session().__enter__()
child = os.fork()
if child == 0:
    signal.alarm(20)
    for use in (
        lambda: engine.session().__enter__(),
        lambda: before.send(np.zeros(1920, np.float32)),
        lambda: list(before),
    ):
        try:
            use()
        except kaiwa.ClosedError as error:
            assert "fork" in str(error) and "spawn" in str(error), error
        else:
            os._exit(1)
    engine.close()
    sys.exit(0)  # with everything that is done at an end
assert os.waitpid(child, 0)[1] == 0
before.send(np.zeros(1920, np.float32))
before.finish()
assert [event.type for event in before] == ["state", "audio", "end"]
engine.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_is_told_that_the_engine_is_not_there() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_several_event_loops(engine: kaiwa.Engine) -> None:
    counts: list[int] = []

    async def talk() -> None:
        async with engine.session() as session:
            await session.send(FRAME)
            session.finish()
            counts.append(len([e async for e in session if isinstance(e, kaiwa.AudioEvent)]))

    for _ in range(3):
        pair = [threading.Thread(target=lambda: asyncio.run(talk())) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join(10)
    assert counts == [1] * 6


def test_an_error_in_the_block_frees_the_slot(engine: kaiwa.Engine) -> None:
    class OurError(Exception):
        pass

    for _ in range(5):
        with pytest.raises(OurError), engine.session(), engine.session():
            raise OurError
        wait_empty(engine)


def test_a_session_that_nobody_has_any_more_is_over(engine: kaiwa.Engine) -> None:
    session = engine.session().__enter__()
    assert engine.readiness.slots_total == 2
    session.send(FRAME)
    del session
    gc.collect()
    wait_empty(engine)


def test_closing_the_engine_ends_sessions() -> None:
    engine = kaiwa.Engine.echo(slots=1)
    with engine.session() as session:
        engine.close()
        assert end_of(session).reason == "closed"
        with pytest.raises(ClosedError):
            session.send(FRAME)
    with pytest.raises(ClosedError), engine.session():
        pass
    engine.close()


def test_an_operator_ends_one(engine: kaiwa.Engine) -> None:
    with engine.session() as one, engine.session() as other:
        assert engine.end_session(one.id, "enough")
        end = end_of(one)
        assert (end.reason, end.message) == ("closed", "enough")
        other.send(FRAME)
        other.finish()
        assert end_of(other).reason == "finished"
    assert not engine.end_session(99)


def test_a_session_ends_only_for_a_reason_that_exists(engine: kaiwa.Engine) -> None:
    assert {"client", "finished", "revoked", "garbage", "error", "full"} <= set(_native.END_REASONS)
    assert len(set(_native.END_REASONS)) == len(_native.END_REASONS)
    with engine.session() as session:
        with pytest.raises(InputError, match=r'reason is "because"; use one of client, .*garbage'):
            session._native.close("because")
        with pytest.raises(InputError, match='reason is "because"'):
            engine._native.end_session(session.id, "", "because")
        assert not session.ended
        session._native.close("revoked", "the key was revoked")
        assert (end := end_of(session)).reason == "revoked"
        assert end.message == "the key was revoked"


# ---- records -----------------------------------------------------------------------------------


def test_what_an_engine_tells_are_frozen_records(engine: kaiwa.Engine) -> None:
    with engine.session(seed=7) as session:
        session.send(FRAME)
        session.finish()
        list(session)
        assert session.info() is None
    readiness = engine.readiness
    assert repr(readiness).startswith("Readiness(state='ready', slots_total=2, slots_used=0")
    with pytest.raises(AttributeError):
        readiness.state = "full"  # type: ignore[misc]
    stats = engine.stats()
    assert stats.frames_in == stats["frames_in"] == stats.get("frames_in") == 1
    assert stats.get("nothing", 5) == 5
    assert "history" in dict(**stats)
    with pytest.raises(KeyError):
        stats["nothing"]
    # Also as the tuples they once were.
    batches: Any = stats.batch
    bounds, counts, total = batches
    assert (bounds, counts, total) == (stats.batch.bounds, stats.batch.counts, stats.batch.sum)
    assert (sum(counts), total) == (1, 1.0)
    (step,) = stats.history
    as_tuple: Any = step
    at, batch, seconds = as_tuple
    assert (at, batch, seconds) == (step.at, 1, step.seconds)


def test_a_session_in_the_list_has_the_facts_of_its_own_record(engine: kaiwa.Engine) -> None:
    with engine.session(seed=7) as session:
        (listed,) = engine.sessions()
        info = session.info()
        assert info is not None
        assert (listed.id, listed.state, listed.slot, listed.seed) == (info.id, "active", 0, 7)
        assert dict(**info)["seed"] == info["seed"] == 7


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        np.full(1920, np.nan, np.float32),
        np.full(1920, np.inf, np.float32),
        np.zeros(1920, np.float64),
        np.zeros((1, 1920), np.float32),
        b"OggS",
        "speech",
        None,
    ],
    ids=["nan", "inf", "float64", "two axes", "bytes", "text", "nothing"],
)
def test_bad_audio_is_refused_and_harms_nobody(engine: kaiwa.Engine, bad: object) -> None:
    with engine.session() as session, engine.session() as other:
        with pytest.raises(InputError):
            session.send(bad)  # type: ignore[arg-type]
        for one in (session, other):
            one.send(FRAME)
            one.finish()
            heard = [e.pcm for e in one if isinstance(e, kaiwa.AudioEvent)]
            assert len(heard) == 1
            np.testing.assert_array_equal(heard[0], FRAME)


@pytest.mark.parametrize(
    "options",
    [
        {"pace": "fast"},
        {"clock": "wall"},
        {"transport": "mp3"},
        {"seed": -1},
        {"seed": 1 << 64},
        {"temp": -1.0},
        {"temp": float("nan")},
        {"top_k": -1},
        {"max_seconds": -1.0},
        {"max_frames": -1},
        {"wait": float("nan")},
    ],
    ids=str,
)
def test_options_out_of_range(engine: kaiwa.Engine, options: dict[str, object]) -> None:
    with pytest.raises(InputError), engine.session(**options):  # type: ignore[arg-type]
        pass

"""The simulation, against what is known without one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tools.scale.balancer import Balancer
from tools.scale.clock import Clock
from tools.scale.report import report
from tools.scale.server import Call, Server
from tools.scale.setup import Setup
from tools.scale.world import World

from kaiwa.plan.sizing import erlang_b
from kaiwa.plan.steps import StepTimes

STEPS = StepTimes(((1, 0.020), (10, 0.050)), True, "test")
#: Refused callers go for good, and checks are up to date.
PLAIN = Setup(
    cells=1,
    replicas=1,
    slots=10,
    steps=STEPS,
    load=8.0,
    queue=0,
    retries=0,
    check_seconds=0.0,
    mean_seconds=60.0,
    seconds=60_000.0,
    warm_seconds=2000.0,
)


def test_events_come_in_order() -> None:
    clock, seen = Clock(), []
    clock.at(2, lambda: seen.append(("b", clock.now)))
    clock.at(1, lambda: clock.after(1, lambda: seen.append(("c", clock.now))))
    clock.at(1, lambda: seen.append(("a", clock.now)))
    clock.at(9, lambda: seen.append(("never", 0.0)))
    clock.run(5)
    assert seen == [("a", 1), ("b", 2), ("c", 2)]
    assert clock.now == 5


def test_lengths_of_calls_are_those_that_were_asked_for() -> None:
    world = World(replace(PLAIN, max_seconds=100.0))
    drawn = [world._length() for _ in range(200_000)]
    assert max(drawn) == 100
    assert sum(drawn) / len(drawn) == pytest.approx(world.setup.held_seconds, rel=0.01)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize(("replicas", "load"), [(1, 8.0), (4, 36.0)])
def test_one_pool_refuses_as_erlang_says(replicas: int, load: float, sigma: float) -> None:
    """However long calls are, as long as a free slot anywhere is found."""
    setup = replace(PLAIN, replicas=replicas, load=load, sigma=sigma, seconds=400_000.0)
    world = World(setup).run()
    found = report(world)
    wanted = erlang_b(replicas * 10, load)
    assert found["refused"] == pytest.approx(wanted, rel=0.06)
    used = load * (1 - wanted) / (replicas * 10)
    assert found["slots_used"] == pytest.approx(used, rel=0.02)
    assert found["not_at_once"] == 0


def test_separate_cells_refuse_more_than_one_of_their_sizes_sum() -> None:
    base = replace(PLAIN, load=72.0, seconds=10_000.0)
    one = report(World(replace(base, cells=1, replicas=10)).run())
    ten = report(World(replace(base, cells=10, replicas=1)).run())
    assert one["slots"] == ten["slots"] == 100
    # Each cell by itself is Erlang with 7.2 calls on 10 slots.
    assert ten["refused"] == pytest.approx(erlang_b(10, 7.2), rel=0.1)
    assert one["refused"] < ten["refused"] / 20


def test_queue_and_retries_help() -> None:
    base = replace(PLAIN, load=9.0, seconds=20_000.0)
    plain = report(World(base).run())
    queue = report(World(replace(base, queue=4)).run())
    again = report(World(replace(base, retries=3)).run())
    assert queue["refused"] < plain["refused"]
    assert again["refused"] < plain["refused"]
    assert 0 < queue["wait_p99"] <= base.queue_seconds
    assert 0 < again["wait_p99"] <= 15
    assert again["tried_again"] > again["refused"]
    assert plain["not_at_once"] == 0 < queue["not_at_once"]


def test_a_full_house_fills_the_queues_of_all_servers() -> None:
    world = World(replace(PLAIN, replicas=4, load=200.0, queue=5, seconds=500.0))
    world.run()
    servers = world.cells[0].servers
    assert [len(server.active) for server in servers] == [10] * 4
    assert sum(len(server.waiting) for server in servers) > 15
    assert all(len(server.waiting) <= 5 for server in servers)


def test_the_same_seed_is_the_same_run() -> None:
    setup = replace(PLAIN, seconds=2000.0, mtbf_seconds=1000.0, replicas=3, load=20.0)
    assert report(World(setup).run()) == report(World(setup).run())
    assert report(World(setup).run()) != report(World(replace(setup, seed=1)).run())


def test_no_caller_is_forgotten() -> None:
    setup = replace(
        PLAIN,
        cells=2,
        replicas=3,
        load=55.0,
        queue=3,
        retries=2,
        mtbf_seconds=500.0,
        update_at=100.0,
        warm_seconds=0.0,
        seconds=3000.0,
        check_seconds=2.0,
    )
    world = World(setup)
    ended = 0
    end = world._ended

    def count(call: Call, began: float) -> None:
        nonlocal ended
        before = call in world._home and call.began == began
        end(call, began)
        ended += before and call not in world._home

    world._ended = count  # type: ignore[method-assign]
    tries = 0
    again = world._again

    def count_again(call: Call) -> None:
        nonlocal tries
        before = world.counts.refused
        again(call)
        tries += world.counts.refused == before

    world._again = count_again  # type: ignore[method-assign]
    for cell in world.cells:
        cell._lost = world._lost
    world.run()
    counts = world.counts
    servers = [server for cell in world.cells for server in cell.servers]
    there = sum(len(server.active) + len(server.waiting) for server in servers)
    between = counts.callers + int(setup.load) - ended - counts.refused - there
    # The rest wait for their next attempt.
    assert 0 <= between < 40
    assert there == len(world._home)
    assert counts.broken > 50
    assert all(len(server.active) <= setup.slots for server in servers)


def test_the_balancer_spreads_calls_evenly() -> None:
    clock = Clock()
    balancer = Balancer(PLAIN, clock, random.Random(0))
    servers = [Server(PLAIN, clock, balancer.changed) for _ in range(7)]
    for server in servers:
        balancer.add(server)
    for n in range(1, 71):
        picked = balancer.pick()
        assert picked is not None
        assert picked.take(Call(0, 60)) == "in"
        clock.run(clock.now + 1)
        sizes = sorted(len(server.active) for server in servers)
        assert sizes[-1] - sizes[0] <= 1
        assert sum(sizes) == n
    assert balancer.pick() is None
    servers[3].end(next(iter(servers[3].active)))
    assert balancer.pick() is None, "it has not checked yet"
    assert {balancer.pick_any() for _ in range(100)} == set(servers)
    balancer.remove(servers[0])
    assert servers[0] not in {balancer.pick_any() for _ in range(100)}
    clock.run(clock.now + 1)
    assert balancer.pick() is servers[3]


def test_a_server_that_dies_breaks_its_calls_and_comes_back() -> None:
    setup = replace(PLAIN, replicas=5, load=30.0, mtbf_seconds=600.0, seconds=100_000.0, retries=3)
    world = World(setup).run()
    found = report(world)
    # Every 600 s of a server's life its calls break: 600 s of all calls' time break one each.
    assert world.counts.broken == pytest.approx(30 * setup.seconds / 600, rel=0.1)
    assert len(world.cells[0].past) == pytest.approx(5 * setup.seconds / 660, rel=0.1)
    assert len(world.cells[0].servers) in (3, 4, 5)
    assert found["slots_used"] > 0.5


def test_an_update_breaks_no_call_and_takes_as_long_as_spares_are_few() -> None:
    setup = replace(PLAIN, replicas=6, load=30.0, update_at=0.0, seconds=5000.0, retries=3)
    old = World(setup)
    before = set(old.cells[0].servers)
    one = report(old.run())
    assert not before & set(old.cells[0].servers)
    assert len(old.cells[0].servers) == 6
    assert old.counts.broken == 0
    # Each must load (60 s) and be drained (360 s at the most).
    assert 6 * 60 < one["update_seconds"] < 6 * 420
    three = report(World(replace(setup, spare=3)).run())
    assert three["update_seconds"] < one["update_seconds"] * 0.7
    assert report(World(replace(setup, seconds=100.0)).run())["update_seconds"] is None


def test_a_cell_that_is_lost() -> None:
    setup = replace(
        PLAIN, cells=4, replicas=3, load=70.0, cell_lost_at=100.0, seconds=3000.0, retries=6
    )
    found = World(setup)
    found.run()
    assert found.counts.broken == pytest.approx(70 / 4, abs=8)
    assert not found.cells[0].servers
    assert found.counts.refused < found.counts.callers * 0.01
    assert found.cells[0] not in found.named
    # Nobody was told that it is gone: a quarter of all callers goes there first.
    untold = World(replace(setup, dns_seconds=1e9)).run().counts
    assert untold.tried_again / untold.callers > 0.2
    assert found.counts.tried_again / found.counts.callers < 0.1
    # Three cells have room for 90; for four they would not do.
    tight = World(replace(setup, load=100.0)).run()
    assert tight.counts.refused > tight.counts.callers * 0.05


def test_times_of_steps_follow_the_calls() -> None:
    found = report(World(replace(PLAIN, seconds=5000.0)).run())
    assert found["step_full_ms"] == pytest.approx(50)
    assert 30 < found["step_mean_ms"] < 50

"""The promises of swarm-config.yml on a real Docker Swarm: `pytest tests/ops --swarm`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from tests.demo.call import ask
from tests.demo.conftest import DATA
from tests.ops import docker, images, swarm, test_dashboards
from tests.ops.swarm import FRAME, Caller, Stack, in_peace, until
from tests.server.wire import FRAME as FRAME_SIZE
from tests.server.wire import HANDSHAKE, METADATA, RATE, call, pcm16, refusal
from training.conversations import Callers
from training.listener import Listener
from websockets.exceptions import ConnectionClosed

from training import callers as callers_of

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    if not request.config.getoption("--swarm"):
        pytest.skip("takes minutes and a Docker Swarm: run with --swarm")
    if not docker.tried("info"):
        pytest.skip("needs a Docker engine")
    try:
        kaiwa, standins = images.kaiwa(), images.standins()
    except images.CannotBuild as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("swarm")
    with swarm.before_others(), swarm.stack(kaiwa, standins, folder) as made:
        yield made


async def begin(
    stack: Stack, count: int, speech: list[bytes] | None = None
) -> tuple[list[Caller], list[asyncio.Task[None]]]:
    """So many calls that talk."""
    callers = [Caller(stack, speech or []) for _ in range(count)]
    tasks = []
    for caller in callers:
        tasks.append(asyncio.create_task(caller.run()))
        await asyncio.wait_for(caller.begun.wait(), 20)
        assert (caller.closed, caller.refused) == (None, "")
    return callers, tasks


async def finish(callers: list[Caller], tasks: list[asyncio.Task[None]]) -> None:
    for caller in callers:
        caller.stop.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)


def unbroken(caller: Caller) -> bool:
    """Nothing lost, and never more than 200 ms without an answer."""
    whole = caller.sent - len(caller.answered) <= 1
    return caller.closed is None and not caller.refused and whole and caller.gap < 0.2


def faultless(caller: Caller) -> bool:
    """The same, and no more than 200 ms without a sound."""
    return unbroken(caller) and caller.hole < 0.2


@in_peace
async def test_calls_spread_and_nothing_else_is_public(stack: Stack) -> None:
    callers, tasks = await begin(stack, 6)
    await asyncio.sleep(2)
    spread = sorted((await asyncio.to_thread(stack.calls)).values())
    await finish(callers, tasks)
    assert spread == [2, 2, 2]
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    for path in ("/metrics", "/ops", "/v1/stats", "/v1/sessions", "/readyz", "/healthz"):
        assert stack.public.ask(path).status == 404, path
    assert stack.public.ask("/v1/models").status == 401


@in_peace
async def test_a_full_house_says_so_and_raises_alarms(stack: Stack) -> None:
    callers, tasks = await begin(stack, 12)
    alarms = {"KaiwaNoReplicaReady", "KaiwaCallersRejected"}
    end = time.monotonic() + 105  # calls end after 120 s
    while True:
        asked = time.monotonic()
        late = Caller(stack)
        await asyncio.wait_for(late.run(), 15)
        took = time.monotonic() - asked
        # Told while it waited for the upgrade (503 with Retry-After), or after it (1013).
        told = late.closed == (1013, "full") or "503" in late.refused
        if not told or took >= 10 or alarms <= (await asyncio.to_thread(stack.alarms) or set()):
            break
        assert time.monotonic() < end, "the alarms do not fire"
    await finish(callers, tasks)
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    assert told, (late.closed, late.refused)
    assert took < 10
    # The other one looks two minutes back: the last test sees that it has ended too.
    fired = "KaiwaNoReplicaReady"
    await until(lambda: stack.rests(fired), "the alarm ends", 60)


@in_peace
async def test_who_waits_is_told_the_place_and_gets_in(stack: Stack) -> None:
    await until(lambda: not any(stack.calls().values()), "the last test's calls are gone", 30)
    callers, tasks = await begin(stack, 12)
    headers = {"Authorization": f"Bearer {stack.key}"}
    url = stack.public.url(format="pcm", client="kaiwa")
    async with call(url, begin=False, additional_headers=headers) as late:
        told = json.loads(await late.find(METADATA))
        assert told["state"] == "queued"
        assert told["position"] == 1
        await asyncio.sleep(1)
        for caller in callers:  # a place in the queue is one of a replica
            caller.stop.set()
        assert (await late.find(HANDSHAKE)) == bytes(8)
    await finish(callers, tasks)
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]


async def test_a_lost_call_is_resumed_through_the_balancer(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.key}"}
    for _ in range(4):  # the balancer hits another replica sooner or later
        async with call(
            stack.public.url(format="pcm", resumable=1), additional_headers=headers
        ) as first:
            about = json.loads(first.seen[-1][1:])
            await first.say(FRAME)
            await first.frames(1)
            first.cut()
        asked = {"format": "pcm", "resumable": 1, "resume": about["resume_token"]}
        async with call(
            stack.public.url(**asked), begin=False, additional_headers=headers
        ) as second:
            again = await second.begin()
            assert again["resumed"] is True
            assert again["session_id"] == about["session_id"]
            await second.say(FRAME)
            await second.frames(1)


@in_peace
async def test_a_rolling_update_loses_no_call(stack: Stack) -> None:
    callers, tasks = await begin(stack, 3)
    before = set(await asyncio.to_thread(stack.containers))
    # Callers come and go all the while.
    visitors: list[Caller] = []
    over = asyncio.Event()

    async def visit() -> None:
        while not over.is_set():
            visitor = Caller(stack)
            visitors.append(visitor)
            task = asyncio.create_task(visitor.run())
            await asyncio.sleep(1.5)
            visitor.stop.set()
            await task

    visiting = asyncio.create_task(visit())
    other = "5" if stack.variables["KAIWA_SLOTS"] == "4" else "4"
    await asyncio.to_thread(stack.deploy, KAIWA_SLOTS=other)
    # Old replicas stop one after the other; each waits for its call.
    await asyncio.sleep(12)
    during = [caller.closed for caller in callers]
    await finish(callers, tasks)
    await until(
        lambda: (
            stack.update_state() == "completed"
            and stack.healthy() == 3
            and not before & set(stack.containers())
        ),
        "all replicas are new",
        180,
    )
    over.set()
    await visiting
    assert during == [None, None, None]
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    assert len(visitors) > 5
    wrong = [(v.closed, v.refused, v.gap, v.hole) for v in visitors if not faultless(v)]
    assert wrong == []


@in_peace
async def test_lost_calls_are_taken_up_while_every_replica_is_exchanged(stack: Stack) -> None:
    """`docker service update --force`: whoever is cut off meanwhile gets the call, or a new one."""
    callers, tasks = await begin(stack, 2)
    headers = {"Authorization": f"Bearer {stack.key}"}
    over = asyncio.Event()
    resumed: list[bool] = []

    async def lose(again: int) -> None:
        token = ""
        while not over.is_set():
            asked = {"format": "pcm", "resumable": 1, **({"resume": token} if token else {})}
            url = stack.public.url(**asked)
            async with call(url, begin=False, additional_headers=headers) as made:
                about = await made.begin()
                if token:
                    resumed.append(about["resumed"])
                token = about["resume_token"]
                # A replica that stops ends what only passes through it, and says so.
                with contextlib.suppress(ConnectionClosed):
                    await made.say(FRAME)
                    await made.frames(1)
                    await asyncio.sleep(0.1 * again)
                    made.cut()

    losers = [asyncio.create_task(lose(again)) for again in range(1, 4)]
    before = set(await asyncio.to_thread(stack.containers))
    await asyncio.to_thread(
        docker.docker, "service", "update", "--force", "--detach", f"{swarm.STACK}_kaiwa"
    )
    await asyncio.sleep(15)
    await finish(callers, tasks)
    await until(
        lambda: stack.update_state() == "completed" and not before & set(stack.containers()),
        "all replicas are new",
        180,
    )
    over.set()
    await asyncio.wait_for(asyncio.gather(*losers), 20)
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    assert len(resumed) > 20
    # A stopping replica holds no lost calls, so some begin anew; most do not.
    assert sum(resumed) > len(resumed) / 2, resumed


@in_peace
async def test_a_bad_image_is_taken_back_and_nobody_notices(stack: Stack) -> None:
    good = stack.variables["KAIWA_IMAGE"]
    callers, tasks = await begin(stack, 3)
    try:
        await asyncio.to_thread(stack.deploy, KAIWA_IMAGE=stack.variables["REDIS_IMAGE"])
        await until(
            lambda: stack.update_state() == "rollback_completed", "the update is taken back", 180
        )
    finally:
        stack.variables["KAIWA_IMAGE"] = good
    await finish(callers, tasks)
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    await until(lambda: stack.healthy() == 3, "three replicas", 60)


@in_peace
async def test_one_that_never_becomes_healthy_is_taken_back(stack: Stack) -> None:
    callers, tasks = await begin(stack, 3)
    text = swarm.SIZES.read_text(encoding="utf-8")
    sick = stack.folder / "sick.yml"
    sick.write_text(text.replace('"kaiwa-health"', '"false"').replace("60s", "3s"))
    assert sick.read_text(encoding="utf-8") != text
    good = stack.variables["KAIWA_SLOTS"]
    try:
        await asyncio.to_thread(stack.deploy, sick, KAIWA_SLOTS="6")
        await until(
            lambda: stack.update_state() == "rollback_completed", "the update is taken back", 180
        )
    finally:
        stack.variables["KAIWA_SLOTS"] = good
    await finish(callers, tasks)
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    await until(lambda: stack.healthy() == 3, "three replicas", 60)


@pytest.fixture
async def one_slot_each(stack: Stack) -> AsyncIterator[None]:
    """The stack with a slot a replica and no room for a spare one; afterwards as it was."""

    async def become(slots: str, order: str) -> None:
        deploy = stack.deploy
        await asyncio.to_thread(lambda: deploy(KAIWA_SLOTS=slots, KAIWA_UPDATE_ORDER=order))
        await until(lambda: stack.update_state() == "completed", f"{slots} slots each", 180)
        await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)

    await become("1", "stop-first")
    yield
    await until(lambda: stack.update_state() == "completed", "the update's end", 180)
    await become("4", "start-first")


@pytest.mark.usefixtures("one_slot_each")
@in_peace
async def test_without_a_spare_calls_end_and_new_callers_wait(stack: Stack) -> None:
    """Stop-first, every slot taken."""
    callers, tasks = await begin(stack, 3)
    before = set(await asyncio.to_thread(stack.containers))
    other = "110" if stack.variables["KAIWA_MAX_SECONDS"] == "120" else "120"
    await asyncio.to_thread(stack.deploy, KAIWA_MAX_SECONDS=other)
    await asyncio.sleep(6)
    headers = {"Authorization": f"Bearer {stack.key}"}
    url = stack.public.url(format="pcm", client="kaiwa")
    async with call(url, begin=False, additional_headers=headers) as late:
        told = json.loads(await late.find(METADATA))
        assert (told["state"], told["position"]) == ("queued", 1)
    during = [caller.closed for caller in callers]
    await finish(callers, tasks)
    assert during == [None] * 3
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    await until(
        lambda: stack.healthy() == 3 and not before & set(stack.containers()), "all new", 180
    )


@in_peace
async def test_a_cut_cable_is_noticed_and_raises_an_alarm(stack: Stack) -> None:
    if os.geteuid() != 0 or shutil.which("nsenter") is None:
        pytest.skip("needs root and nsenter to cut a replica off")
    callers, tasks = await begin(stack, 3)
    talking = await asyncio.to_thread(stack.calls)
    victim = next(c for c, calls in talking.items() if calls == 1)
    watcher = next(c for c in talking if c != victim)
    await asyncio.to_thread(stack.link, victim, "down")
    try:
        await asyncio.sleep(5)
        more, others = await begin(stack, 3)
        await asyncio.sleep(2)
        await finish(more, others)
        fired = "KaiwaReplicaDown"
        # Asked from a replica that has its network.
        await until(lambda: stack.fires(fired, watcher), fired, 120)
    finally:
        await asyncio.to_thread(stack.link, victim, "up")
    assert all(map(faultless, more)), [(c.closed, c.refused, c.gap, c.hole) for c in more]
    await finish(callers, tasks)
    assert sum(map(faultless, callers)) == 2, [
        (c.closed, c.refused, c.gap, c.hole) for c in callers
    ]
    await until(lambda: stack.rests(fired, watcher), "the alarm ends", 120)
    await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)


@in_peace
async def test_a_killed_replica_ends_its_calls_and_no_other(stack: Stack) -> None:
    callers, tasks = await begin(stack, 3)
    await asyncio.sleep(1)
    talking = await asyncio.to_thread(stack.calls)
    victim = next(c for c, calls in talking.items() if calls == 1)
    killed = time.monotonic()
    await asyncio.to_thread(docker.docker, "kill", victim)
    await asyncio.sleep(3)
    hit = [caller for caller in callers if caller.closed is not None]
    assert len(hit) == 1
    assert hit[0].closed_at - killed < 2
    # Its client tries to take the call up, and gets a new one.
    again = Caller(stack, resume=hit[0].about["resume_token"])
    task = asyncio.create_task(again.run())
    await asyncio.wait_for(again.begun.wait(), 10)
    await asyncio.sleep(1.5)
    again.stop.set()
    await task
    await finish(callers, tasks)
    assert faultless(again), (again.closed, again.refused, again.gap, again.hole)
    assert again.about["resumed"] is False
    assert again.about["session_id"] != hit[0].about["session_id"]
    others = [(c.closed, c.gap) for c in callers if c is not hit[0] and not faultless(c)]
    assert others == []
    await until(lambda: stack.healthy() == 3, "the replica is back", 90)


@in_peace
async def test_a_paused_replica_gets_no_calls_and_no_requests(stack: Stack) -> None:
    # Each in turn: none may matter more than the others.
    for victim in await asyncio.to_thread(stack.containers):
        await asyncio.to_thread(docker.docker, "pause", victim)
        try:
            await asyncio.sleep(5)
            callers, tasks = await begin(stack, 2)
            pages = [(await asyncio.to_thread(stack.public.ask, "/")).status for _ in range(6)]
            await asyncio.sleep(1)
            await finish(callers, tasks)
        finally:
            await asyncio.to_thread(docker.tried, "unpause", victim)
        assert pages == [200] * 6
        assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
        await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)


@in_peace
async def test_redis_goes_and_comes_back(stack: Stack) -> None:
    callers, tasks = await begin(stack, 2)
    redis = await asyncio.to_thread(stack.containers, "redis")
    await asyncio.to_thread(docker.docker, "kill", redis[0])
    more, others = await begin(stack, 2)
    await asyncio.sleep(2)
    await finish(callers + more, tasks + others)
    for caller in callers + more:
        assert faultless(caller), (caller.closed, caller.refused, caller.gap)
    await until(
        lambda: len(stack.prometheus("kaiwa_shared_state_up == 1")) == 3, "Redis is back", 60
    )


@in_peace
async def test_without_redis_for_long_an_alarm_fires_and_clears(stack: Stack) -> None:
    fired = "KaiwaSharedStateDown"
    await asyncio.to_thread(docker.docker, "service", "scale", "-d", f"{swarm.STACK}_redis=0")
    try:
        await until(lambda: stack.fires(fired), fired, 150)
        callers, tasks = await begin(stack, 2)
        await asyncio.sleep(1)
        await finish(callers, tasks)
    finally:
        await asyncio.to_thread(docker.docker, "service", "scale", "-d", f"{swarm.STACK}_redis=1")
    assert all(map(faultless, callers)), [(c.closed, c.refused, c.gap, c.hole) for c in callers]
    await until(lambda: stack.rests(fired), "the alarm ends", 150)


async def serve_demo(stack: Stack) -> None:
    """Lets the replicas serve the demo model, unless they do; what changes nothing is no update."""
    if stack.variables["KAIWA_MODEL"] != "demo":
        await asyncio.to_thread(stack.deploy, KAIWA_MODEL="demo")
        await until(lambda: stack.update_state() == "completed", "the demo model runs", 180)


@in_peace
async def test_an_update_spares_what_the_demo_model_says(stack: Stack) -> None:
    await serve_demo(stack)
    await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)
    asked = ask(Callers(callers_of.read(DATA)), "espeak:m3", [8, 1, 7, 9])
    frames = np.split(asked.audio, len(asked.audio) // FRAME_SIZE)
    speech = [pcm16(frame) for frame in frames]
    # What it says when nothing happens; the model need not be right, only undisturbed.
    (alone,), talking = await begin(stack, 1, speech)
    await until(lambda: alone.sent > len(frames), "all was said", 60)
    await finish([alone], talking)
    callers, tasks = await begin(stack, 3, speech)
    before = set(await asyncio.to_thread(stack.containers))
    other = "5" if stack.variables["KAIWA_SLOTS"] == "4" else "4"
    await asyncio.to_thread(stack.deploy, KAIWA_SLOTS=other)
    await until(lambda: all(c.sent > len(frames) for c in callers), "all was said", 60)
    still = before & set(await asyncio.to_thread(stack.containers))
    await finish(callers, tasks)
    await until(
        lambda: stack.update_state() == "completed" and not before & set(stack.containers()),
        "all replicas are new",
        180,
    )
    await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)
    assert still, "no call was on a replica that stopped"
    listener = Listener()

    def answer(caller: Caller) -> list[str]:
        return listener.words(caller.sound[int(asked.end * RATE) :].astype(np.float32) / 32768)

    assert unbroken(alone), (alone.closed, alone.refused, alone.gap)
    assert "".join(alone.words).split()[0] == "hello"
    assert answer(alone)
    for caller in callers:
        assert unbroken(caller), (caller.closed, caller.refused, caller.gap)
        assert "".join(caller.words).split() == "".join(alone.words).split()
        assert answer(caller) == answer(alone)


async def test_every_query_of_every_dashboard_has_data(stack: Stack) -> None:
    await serve_demo(stack)
    await until(lambda: stack.healthy() == 3 and stack.balanced() == 3, "three replicas", 90)
    await finish(*await begin(stack, 3))  # calls that ended are on the dashboards too
    callers, tasks = await begin(stack, 3)
    await asyncio.sleep(40)
    empty = []
    for title, query in test_dashboards.queries():
        asked = test_dashboards.filled(query, "1m")
        found = await asyncio.to_thread(stack.prometheus, asked)
        if not found and not any(name in title for name in test_dashboards.QUIET):
            empty.append(f"{title}: {query}")
    await finish(callers, tasks)
    assert empty == []
    assert [c.closed for c in callers] == [None] * 3


def answering(addresses: list[str]) -> list[str]:
    """What the stack's ports answer; runs in a container."""
    found = []
    for address in addresses:
        for port in (8998, 6379, 9090, 9093, 8405, 8406, 8080):
            try:
                with socket.create_connection((address, port), 0.5) as made:
                    made.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    said = made.recv(24)
            except OSError:
                continue
            if said:
                found.append(f"{address}:{port} {said!r}")
    return found


async def test_only_the_edge_has_a_port(stack: Stack) -> None:
    """Nothing but the edge's is published, nor reached from another network."""
    found = await asyncio.to_thread(docker.docker, "ps", "--format", "{{.Names}} {{.Ports}}")
    published = [row for row in found.splitlines() if "->" in row]
    assert len(published) == 1, published
    assert published[0].startswith(f"{swarm.STACK}_edge.")
    services = await asyncio.to_thread(
        docker.docker, "service", "ls", "--format", "{{.Name}} {{.Ports}}"
    )
    assert [row for row in services.splitlines() if "->" in row] == []
    # From outside of its networks the addresses of its containers answer nothing.
    inside: list[str] = []
    for container in (await asyncio.to_thread(docker.docker, "ps", "-q")).split():
        facts = await asyncio.to_thread(docker.inspect, container)
        if not facts["Name"].startswith(f"/{swarm.STACK}_"):
            continue
        for name, network in facts["NetworkSettings"]["Networks"].items():
            if name != f"{swarm.STACK}_inside":
                continue
            inside.append(network["IPAddress"])
    assert len(inside) >= 6
    script = (
        "import json,socket,sys\n"
        + inspect.getsource(answering)
        + "print(json.dumps(answering(sys.argv[1:])))"
    )
    within = next(iter(await asyncio.to_thread(stack.containers)))
    python = "/opt/kaiwa/bin/python"
    said = await asyncio.to_thread(docker.docker, "exec", within, python, "-c", script, *inside)
    genuine = set(json.loads(said))
    assert len(genuine) >= 6
    image = stack.variables["KAIWA_IMAGE"]
    outside = ("run", "--rm", "--entrypoint", python, image, "-c", script, *inside)
    # A proxy on the way to the internet may answer for every address there is, in its own words.
    said = await asyncio.to_thread(docker.docker, *outside)
    assert not genuine & set(json.loads(said))


async def test_prometheus_sees_every_replica(stack: Stack) -> None:
    await until(lambda: len(stack.prometheus('up{job="kaiwa"} == 1')) == 3, "replicas", 60)
    await until(lambda: len(stack.prometheus('up{job="haproxy"} == 1')) == 2, "balancers", 60)
    await until(lambda: stack.prometheus('up{job="edge"} == 1'), "edge", 60)
    assert len(stack.prometheus("kaiwa_ready == 1")) == 3


async def test_alerts_reach_alertmanager(stack: Stack) -> None:
    """The dead man's switch, which fires all the time, at the receiver that is meant for it."""
    code = (
        "import json,urllib.request as u;"
        "print(json.dumps([[a['labels']['alertname'],a['receivers'][0]['name']] for a in "
        "json.load(u.urlopen('http://alertmanager:9093/api/v2/alerts'))]))"
    )

    def arrived() -> bool:
        asker = stack.containers()[0]
        said = docker.docker("exec", asker, "/opt/kaiwa/bin/python", "-c", code)
        return ["KaiwaWatchdog", "watchdog"] in json.loads(said)

    await until(arrived, "the dead man's switch", 90)


async def test_containers_can_do_little(stack: Stack) -> None:
    for container in stack.containers():
        who = docker.docker("exec", container, "id", "-u")
        assert who == "10001"
        assert not docker.tried("exec", container, "touch", "/opt/kaiwa/x")
        allowed = docker.docker("exec", container, "grep", "CapBnd", "/proc/1/status").split()[1]
        assert int(allowed, 16) == 0
    status, _, _ = await refusal(stack.public.url())
    assert status == 401


async def test_in_the_end_no_alarm_is_left(stack: Stack) -> None:
    await until(lambda: stack.alarms() == set(), "no alarm", 180)

"""What servers tell one another through Redis, on a Redis of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.server.live import eventually
from tests.server.redis_server import RedisServer, redis_server, slow

from kaiwa.server.limits import LimitReached
from kaiwa.server.shared.redis_client import ANSWER_SECONDS, RedisClient, SharedStateUnavailable
from kaiwa.server.shared.signing import Signer
from kaiwa.server.shared.state import LEASE_SECONDS, RENEW_SECONDS, SharedState

SIGNER = Signer((b"1" * 32,))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def client(url: str, wall: Callable[[], float] = time.time) -> RedisClient:
    return RedisClient(url, None, "policy", wall)


def state(
    redis: RedisClient,
    address: str = "http://a:1",
    signer: Signer = SIGNER,
    clock: Callable[[], float] = time.monotonic,
) -> SharedState:
    """The shared state of one server."""

    async def find() -> str:
        return address

    return SharedState(redis, signer, find, clock)


@asynccontextmanager
async def server(
    redis: RedisServer, address: str = "http://a:1", signer: Signer = SIGNER
) -> AsyncIterator[SharedState]:
    """The same, maintained."""
    made = state(client(redis.url), address, signer)
    await made.sync()
    maintaining = asyncio.create_task(made.maintain())
    try:
        yield made
    finally:
        maintaining.cancel()
        await made.close()


@asynccontextmanager
async def by_hand(
    redis: RedisServer, clock: Clock, address: str = "http://a:1"
) -> AsyncIterator[SharedState]:
    """The same, which writes and renews only when the test calls `sync`."""
    made = state(client(redis.url), address, clock=clock)
    await made.sync()
    yield made
    await made.redis.close()


async def enter(
    shared: SharedState,
    lease: str,
    concurrency: int | None = None,
    per_minute: int | None = None,
    counted: bool = False,
) -> tuple[str, int, int] | None:
    """None if there is room."""
    try:
        await shared.enter(
            "alice", lease, concurrency=concurrency, per_minute=per_minute, counted=counted
        )
    except LimitReached as reached:
        return reached.code, reached.limit, reached.retry_after
    shared.add_lease("alice", lease)
    return None


def keys(redis: RedisServer) -> int:
    """How many keys Redis has."""
    return int(redis.run("DBSIZE")[1:])


# ---- tokens --------------------------------------------------------------------------------------


async def test_a_token_is_used_once_over_all(redis: RedisServer) -> None:
    async with server(redis) as here, server(redis) as there:
        until = time.time() + 60
        uses = [shared.mark_used("x", until) for shared in (here, there) * 8]
        assert sorted(await asyncio.gather(*uses)) == [False] * 15 + [True]
        assert await there.mark_used("y", until)


async def test_a_mark_lives_until_the_end_of_its_token(redis: RedisServer) -> None:
    async with server(redis) as here:
        until = time.time() + 60
        assert await here.mark_used("x", until)
        redis.age(58)
        assert not await here.mark_used("x", until)
        redis.age(3)
        assert keys(redis) == 0
        # A token that is too old by Redis' clock is used up, whatever a server's own clock says.
        assert not await here.mark_used("x", time.time() - 1)
        assert keys(redis) == 0


@pytest.mark.parametrize("wrong", [-30.0, 30.0, 1e6])
async def test_the_clock_of_redis_counts(redis: RedisServer, wrong: float) -> None:
    shared = state(client(redis.url, lambda: time.time() + wrong))
    await shared.sync()
    assert shared.redis.clock_offset == pytest.approx(-wrong, abs=1)
    assert shared.redis.now() == pytest.approx(time.time(), abs=1)
    await shared.close()


# ---- limits --------------------------------------------------------------------------------------


async def test_conversations_are_counted_over_all(redis: RedisServer) -> None:
    async with server(redis) as here, server(redis) as there:
        tries = [enter(shared, f"{n}", concurrency=3) for n, shared in enumerate((here, there) * 5)]
        got = await asyncio.gather(*tries)
        assert got.count(None) == 3
        assert got.count(("concurrency", 3, 5)) == 7
        for n in range(10):
            here.remove_lease(str(n))
            there.remove_lease(str(n))
        await eventually(lambda: keys(redis) == 0)
        assert await enter(here, "x", concurrency=1) is None
        assert await enter(there, "x", concurrency=1, counted=True) is None
        assert await enter(there, "y", concurrency=1) == ("concurrency", 1, 5)


async def test_connections_are_counted_over_all(redis: RedisServer) -> None:
    async with server(redis) as here, server(redis) as there:
        assert await enter(here, "a", per_minute=2) is None
        redis.age(30)
        assert await enter(there, "a", per_minute=2, counted=True) is None
        refused = await enter(here, "b", per_minute=2)
        assert refused is not None
        assert refused[:2] == ("rate", 2)
        assert 25 <= refused[2] <= 30
        redis.age(refused[2])
        # The first is out of the window, the second is not; refusals never counted.
        assert await enter(there, "c", per_minute=2) is None
        refused = await enter(here, "d", per_minute=2)
        assert refused is not None
        assert refused[:2] == ("rate", 2)


async def test_what_belongs_together_has_a_common_hash_tag(redis: RedisServer) -> None:
    async with server(redis) as here:
        assert await enter(here, "a", concurrency=2, per_minute=2) is None
        found = redis.run("KEYS", "*")
        assert b"kaiwa:live:{alice}" in found
        assert b"kaiwa:rate:{alice}" in found


# ---- where calls are -----------------------------------------------------------------------------


async def test_where_a_call_is(redis: RedisServer) -> None:
    async with server(redis, "http://a:1") as here, server(redis, "http://b:1") as there:
        here.add_call("token")
        await eventually(lambda: keys(redis) == 1)
        assert await there.owner("token") == "http://a:1"
        # Whoever asks has looked at home already.
        assert await here.owner("token") is None
        assert await there.owner("other") is None
        assert b"token" not in redis.run("KEYS", "*")
        here.remove_call("token")
        await eventually(lambda: keys(redis) == 0)


async def test_nobody_else_can_say_where_a_call_is(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    other = Signer((b"2" * 32,))
    async with (
        server(redis, "http://a:1") as here,
        server(redis, "http://b:1") as there,
        server(redis, "http://evil:1", other) as stranger,
    ):
        stranger.add_call("token")
        await eventually(lambda: keys(redis) == 1)
        assert await there.owner("token") is None
        (name,) = [
            w for w in redis.run("KEYS", "*").decode().split("\r\n") if w.startswith("kaiwa")
        ]
        for forged in ("http://evil:1", "", "e30.AAAA"):
            redis.run("SET", name, forged)
            assert await there.owner("token") is None
        # What a server wrote of another call does not count for this one.
        stranger.remove_call("token")
        await eventually(lambda: keys(redis) == 0)
        here.add_call("another")
        await eventually(lambda: keys(redis) == 1)
        (written,) = [w for w in redis.run("KEYS", "*").decode().split("\r\n") if "kaiwa:" in w]
        redis.run("COPY", written, name)
        assert await there.owner("another") == "http://a:1"
        assert await there.owner("token") is None
    told = [r for r in caplog.records if "give all servers the same token_secret_file" in r.message]
    assert len(told) == 1


async def test_an_address_that_was_kept_for_later_does_not_count(redis: RedisServer) -> None:
    late = [0.0]
    async with server(redis, "http://a:1") as here:
        there = state(client(redis.url, lambda: time.time() + late[0]), "http://b:1")
        await there.sync()
        here.add_call("token")
        await eventually(lambda: keys(redis) == 1)
        assert await there.owner("token") == "http://a:1"
        late[0] = LEASE_SECONDS + 3
        assert await there.owner("token") is None
        await there.close()


# ---- servers that come and go --------------------------------------------------------------------


async def test_leases_of_a_server_that_died_end(redis: RedisServer) -> None:
    clock = Clock()
    async with by_hand(redis, clock) as here, by_hand(redis, clock, "http://b:1") as dead:
        assert await enter(dead, "a", concurrency=2) is None
        assert await enter(here, "b", concurrency=2) is None
        dead.add_call("token")
        # What is renewed does not end.
        for _ in range(10):
            await here.sync()
            await dead.sync()
            redis.age(RENEW_SECONDS)
            clock.now += RENEW_SECONDS
            assert await enter(here, "c", concurrency=2) == ("concurrency", 2, 5)
            assert await here.owner("token") == "http://b:1"
        # One of them dies; the other goes on.
        for _ in range(2):
            assert await enter(here, "c", concurrency=2) == ("concurrency", 2, 5)
            await here.sync()
            redis.age(RENEW_SECONDS)
            clock.now += RENEW_SECONDS
        assert await enter(here, "c", concurrency=2) is None
        assert await enter(here, "d", concurrency=2) == ("concurrency", 2, 5)
        assert await here.owner("token") is None


async def test_a_server_that_ends_removes_everything(redis: RedisServer) -> None:
    async with server(redis) as here:
        assert await enter(here, "a") is None
        here.add_call("token")
        await eventually(lambda: keys(redis) == 2)
    assert keys(redis) == 0


# ---- a Redis that does not answer ----------------------------------------------------------------


async def test_a_redis_that_stops_is_told_everything_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kaiwa")
    async with server(redis, "http://a:1") as here, server(redis, "http://b:1") as there:
        assert await enter(here, "a", concurrency=1) is None
        here.add_call("token")
        redis.stop()
        with pytest.raises(SharedStateUnavailable):
            await here.mark_used("x", time.time() + 60)
        assert not here.redis.up
        # From now on nobody waits for it.
        failures = here.redis.failures
        for _ in range(50):
            with pytest.raises(SharedStateUnavailable):
                await here.mark_used("x", time.time() + 60)
        assert here.redis.failures - failures <= 2
        # What begins and ends meanwhile is told as it is then.
        here.add_lease("alice", "b")
        here.add_lease("alice", "c")
        here.remove_lease("c")
        await eventually(lambda: not there.redis.up)
        redis.start()
        await eventually(lambda: here.redis.up and there.redis.up)
        await eventually(lambda: redis.run("ZCARD", "kaiwa:live:{alice}") == b":2\r\n")
        assert await enter(there, "d", concurrency=2) == ("concurrency", 2, 5)
        assert await there.owner("token") == "http://a:1"
    told = [(r.levelname, r.message) for r in caplog.records if "shared state" in r.message]
    assert [level for level, _ in told] == ["WARNING", "WARNING", "INFO", "INFO"]
    assert all(message.endswith("; policy") for level, message in told if level == "WARNING")


async def test_a_redis_that_hangs_is_left_alone(redis: RedisServer) -> None:
    async with server(redis) as here:
        redis.hang()
        try:
            started = time.monotonic()
            with pytest.raises(SharedStateUnavailable):
                await here.mark_used("x", time.time() + 60)
            assert time.monotonic() - started < 3 * ANSWER_SECONDS
        finally:
            redis.unhang()
        await eventually(lambda: here.redis.up)
        assert await here.mark_used("y", time.time() + 60)


async def test_a_redis_that_was_never_there(redis: RedisServer) -> None:
    redis.stop()
    async with server(redis) as here:
        assert not here.redis.up
        assert here.redis.failures > 0
        with pytest.raises(SharedStateUnavailable):
            await here.owner("token")
        redis.start()
        await eventually(lambda: here.redis.up)
        assert await here.owner("token") is None


async def test_a_password(redis: RedisServer) -> None:
    redis.run("CONFIG", "SET", "requirepass", "sesame")
    for password, up in (("sesame", True), ("wrong", False), (None, False)):
        asked = RedisClient(redis.url, password, "policy")
        assert await asked.probe() is up
        await asked.close()


# ---- a Redis that answers late, or refuses -------------------------------------------------------


async def test_a_redis_that_answers_late_is_used(redis: RedisServer) -> None:
    """Opening a connection takes several answers, which together take longer than one may."""
    async with slow(redis, ANSWER_SECONDS / 2) as url:
        shared = state(client(url))
        await shared.sync()
        assert shared.redis.up
        # More at a time than there are connections.
        until = time.time() + 60
        uses = [shared.mark_used(f"{n}", until) for n in range(20)]
        assert await asyncio.gather(*uses) == [True] * 20
        assert shared.redis.up
        assert shared.redis.failures == 0
        await shared.close()


#: Ways in which a Redis answers questions and takes no writes.
REFUSALS = {
    "a read-only replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "no memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_a_redis_that_refuses_writes_is_unavailable_until_it_takes_them(
    redis: RedisServer, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kaiwa")
    refuse, allow = REFUSALS[why]
    shared = state(client(redis.url), clock=(clock := Clock()))
    await shared.sync()
    assert shared.redis.up
    redis.run(*refuse)
    for _ in range(5):
        clock.now += 1
        await shared.sync()
        assert not shared.redis.up
    redis.run(*allow)
    clock.now += 1
    await shared.sync()
    assert shared.redis.up
    levels = [(r.levelname, "refuses writes" in r.message) for r in caplog.records]
    assert levels == [("WARNING", True), ("INFO", False)]
    await shared.close()


async def test_a_redis_cluster_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of its machines answers for some keys only."""
    with redis_server(tmp_path, **{"cluster-enabled": "yes"}) as redis:
        redis.run("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        shared = state(client(redis.url))
        for _ in range(3):
            await shared.sync()
            assert not shared.redis.up
        await shared.close()
    (said,) = [r.message for r in caplog.records]
    assert "is a Redis Cluster: give the address of a single Redis, or a proxy; policy" in said


async def test_one_thing_that_redis_refuses_leaves_the_rest(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else has written under the name of one key."""
    redis.run("SET", "kaiwa:live:{alice}", "nonsense")
    shared = state(client(redis.url))
    await shared.sync()
    for n in range(3):
        with pytest.raises(SharedStateUnavailable):
            await enter(shared, f"{n}", concurrency=1)
        assert shared.redis.up
        assert await shared.mark_used(f"{n}", time.time() + 60)
    assert shared.redis.failures == 3
    assert len([r for r in caplog.records if "refuses a command" in r.message]) == 1
    await shared.close()

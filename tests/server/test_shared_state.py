"""What servers tell one another through Redis, on a Redis of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.server.live import eventually
from tests.server.redis_server import RedisServer, redis_server

from kaiwa.server.limits import LimitReached
from kaiwa.server.shared import state as shared_state
from kaiwa.server.shared.redis_client import ANSWER_SECONDS, RedisClient, SharedStateUnavailable
from kaiwa.server.shared.state import SharedState


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def server(redis: RedisServer, address: str = "http://a:1") -> AsyncIterator[SharedState]:
    """The shared state of one server, maintained."""

    async def find() -> str:
        return address

    made = SharedState(RedisClient(redis.url, None, "policy"), find)
    await made.sync()
    keeper = asyncio.create_task(made.maintain())
    try:
        yield made
    finally:
        keeper.cancel()
        await made.close()


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


async def test_a_token_is_claimed_once_over_all(redis: RedisServer) -> None:
    async with server(redis) as here, server(redis) as there:
        claims = [shared.mark_used("kt_x", 60) for shared in (here, there) * 8]
        assert sorted(await asyncio.gather(*claims)) == [False] * 15 + [True]
        assert await there.mark_used("kt_y", 60)
        assert b"kt_" not in redis.run("KEYS", "*")


async def test_a_claim_has_an_end(redis: RedisServer) -> None:
    async with server(redis) as here:
        assert await here.mark_used("kt_x", 0.05)
        await asyncio.sleep(0.1)
        assert redis.run("DBSIZE") == b":0\r\n"


async def test_conversations_are_counted_over_all(redis: RedisServer) -> None:
    async with server(redis) as here, server(redis) as there:
        tries = [enter(shared, f"{n}", concurrency=3) for n, shared in enumerate((here, there) * 5)]
        got = await asyncio.gather(*tries)
        assert got.count(None) == 3
        assert got.count(("concurrency", 3, 5)) == 7
        for n in range(10):
            here.remove_lease(str(n))
            there.remove_lease(str(n))
        await eventually(lambda: redis.run("DBSIZE") == b":0\r\n")
        assert await enter(here, "x", concurrency=1) is None
        assert await enter(there, "x", concurrency=1, counted=True) is None
        assert await enter(there, "y", concurrency=1) == ("concurrency", 1, 5)


async def test_connections_are_counted_over_all(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_state, "WINDOW", 1.2)
    async with server(redis) as here, server(redis) as there:
        assert await enter(here, "a", per_minute=2) is None
        await asyncio.sleep(0.6)
        assert await enter(there, "a", per_minute=2, counted=True) is None
        assert await enter(here, "b", per_minute=2) == ("rate", 2, 1)
        await asyncio.sleep(0.7)
        # The first is out of the window, the second is not; refusals never counted.
        assert await enter(there, "c", per_minute=2) is None
        assert await enter(here, "d", per_minute=2) == ("rate", 2, 1)


async def test_leases_of_a_server_that_is_no_more_end(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_state, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(shared_state, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(shared_state, "PROBE_SECONDS", 0.1)
    async with server(redis) as here:
        async with server(redis, "http://b:1") as dead:
            assert await enter(dead, "a", concurrency=2) is None
            assert await enter(here, "b", concurrency=2) is None
            dead.add_call("token")
            # What is renewed does not end.
            await asyncio.sleep(1.5)
            assert await enter(here, "c", concurrency=2) == ("concurrency", 2, 5)
            assert await here.owner("token") == "http://b:1"
            # Dies: it takes back nothing.
            dead._leases.clear()
            dead._calls.clear()
        assert await enter(here, "c", concurrency=2) == ("concurrency", 2, 5)
        await asyncio.sleep(1.2)
        assert await enter(here, "c", concurrency=2) is None
        assert await enter(here, "d", concurrency=2) == ("concurrency", 2, 5)
        assert await here.owner("token") is None


async def test_where_a_call_is(redis: RedisServer) -> None:
    async with server(redis, "http://a:1") as here, server(redis, "http://b:1") as there:
        here.add_call("token")
        await eventually(lambda: redis.run("DBSIZE") == b":1\r\n")
        assert await there.owner("token") == "http://a:1"
        # Whoever asks has looked at home already.
        assert await here.owner("token") is None
        assert await there.owner("other") is None
        assert b"token" not in redis.run("KEYS", "*")
        here.remove_call("token")
        await eventually(lambda: redis.run("DBSIZE") == b":0\r\n")


async def test_a_server_that_ends_takes_everything_back(redis: RedisServer) -> None:
    async with server(redis) as here:
        assert await enter(here, "a") is None
        here.add_call("token")
        await eventually(lambda: redis.run("DBSIZE") == b":2\r\n")
    assert redis.run("DBSIZE") == b":0\r\n"


async def test_a_redis_that_stops_is_told_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kaiwa")
    async with server(redis, "http://a:1") as here, server(redis, "http://b:1") as there:
        assert await enter(here, "a", concurrency=1) is None
        here.add_call("token")
        redis.stop()
        with pytest.raises(SharedStateUnavailable):
            await here.mark_used("kt_x", 60)
        assert not here.redis.up
        # From now on nobody waits for it.
        started = time.monotonic()
        for _ in range(50):
            with pytest.raises(SharedStateUnavailable):
                await here.mark_used("kt_x", 60)
        assert time.monotonic() - started < 0.1
        # What begins and ends meanwhile is told as it is then.
        here.add_lease("alice", "b")
        here.add_lease("alice", "c")
        here.remove_lease("c")
        await eventually(lambda: not there.redis.up)
        redis.start()
        await eventually(lambda: here.redis.up and there.redis.up)
        await eventually(lambda: redis.run("ZCARD", "kaiwa:live:alice") == b":2\r\n")
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
                await here.mark_used("kt_x", 60)
            assert time.monotonic() - started < 3 * ANSWER_SECONDS
        finally:
            redis.unhang()
        await eventually(lambda: here.redis.up)
        assert await here.mark_used("kt_y", 60)


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
        client = RedisClient(redis.url, password, "policy")
        assert await client.probe() is up
        await client.close()

"""Several servers that share a Redis: as processes, with calls through whichever of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import MakeKey
from tests.server.live import At, Program, eventually, program
from tests.server.redis_server import RedisServer, redis_server
from tests.server.wire import FRAME, Call, call, from_pcm16, pcm16, refusal, tone
from websockets.exceptions import ConnectionClosed

from kaiwa.server.shared.state import LEASE_SECONDS

SECRET = "a secret of these tests, of no use elsewhere"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty(redis: RedisServer) -> RedisServer:
    """A Redis that knows nothing yet."""
    redis.run("FLUSHALL")
    return redis


def shared_by(redis: RedisServer, folder: Path, secret: str = SECRET) -> tuple[object, ...]:
    """Options of servers that share a Redis and a secret."""
    file = folder / "secret"
    file.write_text(secret)
    return ("--model", "synth:echo", "--redis-url", redis.url, "--token-secret-file", file)


@contextmanager
def servers(
    count: int, redis: RedisServer, folder: Path, *more: object, secret: str = SECRET
) -> Iterator[list[Program]]:
    """Servers without a model that say back what they hear."""
    options = shared_by(redis, folder, secret)
    with ExitStack() as stack:
        yield [stack.enter_context(program(*options, *more)) for _ in range(count)]


def bearer(key: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


def up(server: Program) -> bool:
    return server.metric("kaiwa_shared_state_up") == 1


async def passed_on(server: Program, calls: int, seconds: float = 10) -> None:
    await eventually(lambda: server.metric("kaiwa_calls_passed_on") == calls, "calls", seconds)


async def refused(server: Program, key: str) -> tuple[int, str]:
    status, error, _ = await refusal(server.url(), Authorization=f"Bearer {key}")
    return status, error["code"]


@asynccontextmanager
async def lost(server: At, redis: RedisServer, **options: Any) -> AsyncIterator[str]:
    """A call whose client went without a word; its resume token."""
    url = server.url(resumable=1, format="pcm", pace="none")
    async with call(url, False, **options) as chat:
        token = (await chat.begin())["resume_token"]
        await chat.say(pcm16(tone(1)))
        await chat.frames(1)
        await eventually(lambda: b"kaiwa:call:" in redis.run("KEYS", "*"), "the call is known")
        yield token
        chat.cut()


# ---- tokens and limits ---------------------------------------------------------------------------


async def test_a_token_of_one_server_serves_one_connection_on_any(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice")
    with servers(2, empty, tmp_path, "--keys", key_path) as (here, there):
        token = here.ask("/v1/tokens", "POST", key).json["token"]
        async with call(there.url(token=token)):
            for server in (here, there):
                status, error, _ = await refusal(server.url(token=token))
                assert (status, error["code"]) == (401, "bad_token")
        # Used for anything, it is used.
        token = here.ask("/v1/tokens", "POST", key).json["token"]
        assert here.ask(f"/v1/models?token={token}").status == 200
        assert there.ask(f"/v1/models?token={token}").status == 401
        # Many at once: one gets in.
        token = here.ask("/v1/tokens", "POST", key).json["token"]
        got = await asyncio.gather(
            *(attempt(server.url(token=token)) for server in (here, there) * 4)
        )
        assert sorted(got) == [False] * 7 + [True]


#: The program on a machine whose clock is wrong by SECONDS.
WRONG_CLOCK = """
import sys, time
right = time.time
time.time = lambda: right() + SECONDS
from kaiwa import cli
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("wrong", [-30, 30, 3600])
async def test_a_server_whose_clock_is_wrong_goes_by_that_of_redis(
    wrong: int, empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice")
    options = (*shared_by(empty, tmp_path), "--keys", key_path)
    script = WRONG_CLOCK.replace("SECONDS", str(wrong))
    with program(*options) as right, program(*options, script=script) as skewed:
        assert skewed.metric("kaiwa_shared_clock_offset_seconds") == pytest.approx(-wrong, abs=1)
        assert right.metric("kaiwa_shared_clock_offset_seconds") == pytest.approx(0, abs=1)
        for issuer, taker in ((right, skewed), (skewed, right)):
            token = issuer.ask("/v1/tokens", "POST", key).json["token"]
            async with call(taker.url(token=token)):
                pass
            for server in (issuer, taker):
                assert (await refusal(server.url(token=token)))[:1] == (401,)
        async with lost(right, empty, **bearer(key)) as resume:
            pass
        async with call(skewed.url(resume=resume), False, **bearer(key)) as chat:
            assert (await chat.begin())["resumed"] is True


async def attempt(url: str) -> bool:
    """Whether a call is let in."""
    with contextlib.suppress(Exception):
        async with call(url):
            return True
    return False


async def test_a_key_has_its_limits_over_all_servers(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    two, often = make_key("two", concurrency=2), make_key("often", per_minute=3)
    with servers(2, empty, tmp_path, "--keys", key_path) as (here, there):
        async with call(here.url(), **bearer(two)):
            async with call(there.url(), **bearer(two)):
                for server in (here, there):
                    assert await refused(server, two) == (429, "key_concurrency")
            # A place is free as soon as its call is over.
            await eventually(lambda: b":1\r\n" in empty.run("ZCARD", live_of(empty)))
            async with call(here.url(), **bearer(two)):
                pass
        for server in (here, there, here):
            async with call(server.url(), **bearer(often)):
                pass
        for server in (here, there):
            assert await refused(server, often) == (429, "key_rate")


def live_of(redis: RedisServer) -> str:
    """Name of the one list of conversations."""
    lines = redis.run("KEYS", "kaiwa:live:*").decode().split("\r\n")
    (name,) = [line for line in lines if line.startswith("kaiwa:live:")]
    return name


async def test_the_calls_of_a_server_that_was_killed_free_their_places(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice", concurrency=1)
    with servers(2, empty, tmp_path, "--keys", key_path) as (here, there):
        async with call(here.url(), **bearer(key)):
            here.signal(signal.SIGKILL)
            here.process.wait()
            assert await refused(there, key) == (429, "key_concurrency")

            empty.age(LEASE_SECONDS - 2)
            assert await refused(there, key) == (429, "key_concurrency")
            empty.age(2)
            assert await attempt_with(there, key)


async def attempt_with(server: Program, key: str) -> bool:
    with contextlib.suppress(Exception):
        async with call(server.url(), **bearer(key)):
            return True
    return False


# ---- Redis stops and starts ----------------------------------------------------------------------


async def test_without_redis_calls_go_on_and_servers_count_for_themselves(
    tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice", concurrency=1)
    with (
        redis_server(tmp_path) as redis,
        servers(2, redis, tmp_path, "--keys", key_path) as (here, there),
    ):
        url = here.url(format="pcm", pace="none")
        async with call(url, **bearer(key)) as chat:
            assert up(here)
            redis.stop()
            await eventually(lambda: not up(here) and not up(there), "noticed")
            await chat.say(*[pcm16(tone(1))] * 4)
            await chat.frames(4)
            # Each by its own limits, and a token is good once on each.
            assert await refused(here, key) == (429, "key_concurrency")
            token = here.ask("/v1/tokens", "POST", key).json["token"]
            async with call(there.url(token=token)):
                assert await refused(there, key) == (429, "key_concurrency")
                status, _, _ = await refusal(there.url(token=token))
                assert status == 401
                assert there.metric('kaiwa_shared_state_unanswered_total{what="token"}') == 1
                assert there.metric('kaiwa_shared_state_unanswered_total{what="limits"}') == 1
                redis.start()
                await eventually(lambda: up(here) and up(there), "answers again")
                # What began meanwhile is known now.
                await eventually(lambda: b":2\r\n" in redis.run("ZCARD", live_of(redis)))
            await eventually(lambda: b":1\r\n" in redis.run("ZCARD", live_of(redis)))
            assert await refused(there, key) == (429, "key_concurrency")
            await chat.say(pcm16(tone(1)))
            await chat.frames(1)
        there.signal()
        status, said = there.ended()
    assert status == 0
    assert said.count("does not answer") == 1
    assert "counted by each server for itself" in said
    assert said.count("answers again") == 1
    assert "Traceback" not in said


async def test_without_redis_callers_with_keys_may_be_refused(
    tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice")
    with (
        redis_server(tmp_path) as redis,
        servers(1, redis, tmp_path, "--keys", key_path, "--redis-down", "closed") as (server,),
    ):
        url = server.url(format="pcm", pace="none")
        async with call(url, **bearer(key)) as chat:
            token = server.ask("/v1/tokens", "POST", key).json["token"]
            redis.hang()
            try:
                await eventually(lambda: not up(server), "noticed")
                assert await refused(server, key) == (503, "shared_state")
                status, error, headers = await refusal(server.url(token=token))
                assert (status, error["code"], headers["retry-after"]) == (503, "shared_state", "5")
                await chat.say(pcm16(tone(1)))
                await chat.frames(1)
            finally:
                redis.unhang()
            await eventually(lambda: up(server), "answers again")
            assert await attempt_with(server, key)


async def test_servers_start_without_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        redis.stop()
        with servers(1, redis, tmp_path) as (server,):
            async with call(server.url()):
                assert not up(server)
                redis.start()
                await eventually(lambda: up(server), "answers")


# ---- a call that is held elsewhere ---------------------------------------------------------------


async def test_a_lost_call_is_taken_up_through_another_server(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice", concurrency=1)
    with servers(3, empty, tmp_path, "--keys", key_path) as (here, there, third):
        async with lost(here, empty, **bearer(key)) as token:
            pass
        asked = {"resume": token, "resumable": 1}
        for through in (there, third):
            # A new token for each connection, as a web page does it.
            pass_ = third.ask("/v1/tokens", "POST", key).json["token"]
            async with call(through.url(token=pass_, **asked), False) as chat:
                about = await chat.begin()
                assert about["resumed"] is True
                assert about["resume_token"] == token
                sound = tone(6)
                answers = []
                for at in range(6):
                    await chat.say(pcm16(sound[at * FRAME : (at + 1) * FRAME]))
                    answers += await chat.frames(1)
                heard = from_pcm16(answers)
                assert abs(heard - sound).max() < 1e-3
                assert here.metric('kaiwa_conversations_active{protocol="kyutai"}') == 1
                assert through.metric('kaiwa_conversations_active{protocol="kyutai"}') == 0
                assert through.metric("kaiwa_calls_passed_on") == 1
                assert through.metric('kaiwa_resumed_total{where="elsewhere"}') == 1
                # It is one call still.
                assert await refused(there, key) == (429, "key_concurrency")
                chat.cut()
            await passed_on(through, 0)
        # Ended by its client, it is over everywhere.
        async with call(there.url(**asked), **bearer(key)) as chat:
            await chat.socket.close(1000)
        await eventually(lambda: here.metric('kaiwa_conversations_active{protocol="kyutai"}') == 0)
        ended = 'kaiwa_conversations_ended_total{protocol="kyutai",reason="client"}'
        assert here.metric(ended) == 1
        assert here.metric('kaiwa_conversations_started_total{protocol="kyutai"}') == 1
        await eventually(lambda: b"kaiwa:call:" not in empty.run("KEYS", "*"))


async def test_the_client_knows_better_that_its_connection_is_lost(
    empty: RedisServer, tmp_path: Path
) -> None:
    """It changed its network: the old connection says nothing, and is not closed either."""
    with servers(2, empty, tmp_path) as (here, there):
        async with lost(here, empty) as token:
            async with call(there.url(resume=token, format="pcm"), False) as chat:
                assert (await chat.begin())["resumed"] is True
            assert here.metric('kaiwa_resumed_total{where="here"}') == 1


async def test_a_held_call_is_there_for_its_own_key(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key, other = make_key("alice"), make_key("bob")
    with servers(2, empty, tmp_path, "--keys", key_path) as (here, there):
        async with lost(here, empty, **bearer(key)) as token:
            pass
        async with call(there.url(resume=token), False, **bearer(other)) as thief:
            assert (await thief.begin())["resumed"] is False
        status, error, _ = await refusal(there.url(resume=token))
        assert (status, error["code"]) == (401, "no_key")
        # Whoever is no server vouches for nobody.
        forged = {"x-kaiwa-voucher": "e30.AAAA"}
        status, error, _ = await refusal(here.url(resume=token), **forged)
        assert (status, error["code"]) == (403, "voucher")
        async with call(there.url(resume=token), False, **bearer(key)) as chat:
            assert (await chat.begin())["resumed"] is True


async def test_limits_hold_for_a_call_that_is_passed_on(
    empty: RedisServer, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice", per_minute=1)
    with servers(2, empty, tmp_path, "--keys", key_path) as (here, there):
        async with lost(here, empty, **bearer(key)) as token:
            pass
        auth = {"Authorization": f"Bearer {key}"}
        status, error, headers = await refusal(there.url(resume=token), **auth)
        assert (status, error["code"]) == (429, "key_rate")
        assert int(headers["retry-after"]) > 30
        assert here.ask("/readyz").json["slots_used"] == 1


async def test_a_held_call_of_a_full_server_is_reached(empty: RedisServer, tmp_path: Path) -> None:
    with servers(2, empty, tmp_path, "--slots", 1, "--queue", 0) as (here, there):
        async with lost(here, empty) as token:
            pass
        assert here.ask("/readyz").json["state"] == "full"
        async with call(there.url(resume=token), False) as chat:
            assert (await chat.begin())["resumed"] is True


async def test_the_server_of_a_call_dies(empty: RedisServer, tmp_path: Path) -> None:
    with servers(2, empty, tmp_path) as (here, there):
        async with lost(here, empty) as token:
            pass
        async with call(there.url(resume=token, resumable=1), False) as chat:
            assert (await chat.begin())["resumed"] is True
            here.signal(signal.SIGKILL)
            assert await chat.gone(3) == (1013, "lost")
            assert chat.said == ["the server of this call is gone; call again"]
        # Redis names it for some seconds more; a caller gets a new call at once.
        assert b"kaiwa:call:" in empty.run("KEYS", "*")
        async with call(there.url(resume=token), False) as chat:
            assert (await chat.begin())["resumed"] is False


async def test_a_server_that_passes_calls_on_drains(empty: RedisServer, tmp_path: Path) -> None:
    with servers(3, empty, tmp_path, "--drain-seconds", 0.5) as (here, there, third):
        async with lost(here, empty) as token:
            pass
        async with call(there.url(resume=token, resumable=1), False) as chat:
            assert (await chat.begin())["resumed"] is True
            there.signal()
            assert await chat.gone(5) == (1012, "drain")
            assert chat.said == ["server restarting"]
        status, said = there.ended()
        assert (status, "Traceback" in said) == (0, False)
        async with call(third.url(resume=token), False) as chat:
            assert (await chat.begin())["resumed"] is True


async def test_a_drain_of_the_server_of_a_call_is_passed_on(
    empty: RedisServer, tmp_path: Path
) -> None:
    with servers(2, empty, tmp_path, "--drain-seconds", 0.5) as (here, there):
        async with lost(here, empty) as token:
            pass
        async with call(there.url(resume=token, resumable=1), False) as chat:
            assert (await chat.begin())["resumed"] is True
            here.signal()
            assert await chat.gone(5) == (1012, "drain")
            assert chat.said == ["server restarting"]


async def test_servers_with_different_secrets_do_not_know_one_another(
    empty: RedisServer, tmp_path: Path
) -> None:
    with (
        servers(1, empty, tmp_path) as (here,),
        servers(1, empty, tmp_path, secret="x" * 40) as (there,),
    ):
        async with lost(here, empty) as token:
            pass
        async with call(there.url(resume=token), False) as chat:
            assert (await chat.begin())["resumed"] is False
        there.signal()
        assert "give all servers the same token_secret_file" in there.ended()[1]


#: The program, which gives a client up after a second in which it has taken nothing.
IMPATIENT = """
import sys
from kaiwa import cli
from kaiwa.server.call import slow_client
slow_client.STUCK_CLIENT = 1.0
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


async def test_a_client_that_reads_nothing_is_given_up_where_its_call_is_passed_on(
    empty: RedisServer, tmp_path: Path
) -> None:
    options = (*shared_by(empty, tmp_path), "--resume-seconds", 60)
    with program(*options) as here, program(*options, script=IMPATIENT) as there:
        async with lost(here, empty) as token:
            pass
        url = there.url(resume=token, resumable=1, clock="server")
        async with call(url, False, max_queue=1) as chat:
            assert (await chat.begin())["resumed"] is True
            chat.socket.transport.pause_reading()
            feed = asyncio.create_task(feeding(chat))
            try:
                await passed_on(there, 0, 45)
            finally:
                feed.cancel()


async def feeding(chat: Call) -> None:
    """Sound without an end."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await chat.say(pcm16(tone(1)))
            # As fast as somebody speaks, which is what the server allows.
            await asyncio.sleep(0.08)

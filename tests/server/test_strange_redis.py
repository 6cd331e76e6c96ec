"""What answers in the place of Redis is something else, or not itself: a server goes on alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.server.redis_server import redis_server, slow

from kaiwa.server.shared.redis_client import RedisClient, SharedStateUnavailable
from kaiwa.server.shared.signing import Signer
from kaiwa.server.shared.state import SharedState

#: What is said to every command; None closes the connection at once.
ANSWERS: dict[str, bytes | None] = {
    "nothing, and closes": None,
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "no number": b":abc\r\n",
    "a list of no number": b"*x\r\n",
    "a text of no length": b"$x\r\n",
    "a negative length": b"$-5\r\n",
    "a list without end": b"*1000000000\r\n" + b"+x\r\n" * 1000,
    "a text without end": b"$2000000000\r\n" + b"x" * 1000,
    "half a line": b"+O",
    "bytes of no kind": bytes(range(128, 256)),
    "a map of the newer protocol": b"%1\r\n+a\r\n+b\r\n",
    "numbers where texts should be": b":7\r\n",
    "empty lists": b"*0\r\n",
    "nulls": b"$-1\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "a disk that is full": b"-MISCONF Errors writing to the AOF file\r\n",
    "no master": b"-MASTERDOWN Link with MASTER is down\r\n",
    "too many clients": b"-ERR max number of clients reached\r\n",
    "a word of its own": b"-WHATEVER\r\n",
}


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[str]:
    """The address of something that answers what it is sent; None closes the connection."""
    writers: set[asyncio.StreamWriter] = set()
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())  # type: ignore[arg-type]
        writers.add(writer)
        try:
            while data := await reader.read(65_536):
                if (said := answer(data)) is None:
                    break
                writer.write(said)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*served)


async def address() -> str:
    return "http://a:1"


def state(url: str, password: str | None = None) -> SharedState:
    """The shared state of one server."""
    return SharedState(RedisClient(url, password, "calls go on"), Signer((b"1" * 32,)), address)


@pytest.mark.parametrize("kind", ANSWERS)
async def test_strange_answers_count_as_none(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with answering(lambda _: ANSWERS[kind]) as url:
        shared = state(url)
        for _ in range(2):
            assert not await asyncio.wait_for(shared.redis.probe(), 10)
        with pytest.raises(SharedStateUnavailable):
            await shared.mark_used("one", 1e12)
        # Nor does what looks after it fail.
        looking = asyncio.create_task(shared.maintain())
        done, _ = await asyncio.wait({looking}, timeout=0.1)
        assert not done
        looking.cancel()
        await shared.redis.close()
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, [r.getMessage() for r in warnings]
    assert warnings[0].getMessage().endswith("; calls go on")


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_redis_that_begins_to_answer_strangely_is_left_alone(kind: str) -> None:
    """While it is asked about a token."""
    clock: bytes | None = b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"
    said = {"EVAL": clock}

    def answer(data: bytes) -> bytes | None:
        if b"EVAL" in data:
            return said["EVAL"]
        return b"$7\r\nignored\r\n" if b"INFO" in data else b"+OK\r\n" * data.count(b"*")

    async with answering(answer) as url:
        shared = state(url)
        assert await shared.redis.probe()
        said["EVAL"] = ANSWERS[kind]
        answers = await asyncio.gather(
            asyncio.wait_for(shared.mark_used("one", 1e12), 10),
            asyncio.wait_for(
                shared.enter("alice", "l", concurrency=1, per_minute=1, counted=False), 10
            ),
            return_exceptions=True,
        )
        await shared.redis.close()
    # A token that is let in is one for which Redis said so: a number.
    assert isinstance(answers[0], (SharedStateUnavailable, bool)), answers[0]
    assert answers[0] is not True or kind == "numbers where texts should be"
    assert isinstance(answers[1], SharedStateUnavailable), answers[1]


@pytest.mark.parametrize("seconds", [0.12, 0.25])
async def test_a_slow_redis_with_a_password_is_used(tmp_path: Path, seconds: float) -> None:
    """A password is one more answer before a connection is open."""

    with redis_server(tmp_path, requirepass="sesame") as redis:
        async with slow(redis, seconds) as url:
            shared = state(url, "sesame")
            await shared.sync()
            assert shared.redis.up
            until = shared.redis.now() + 60
            uses = [shared.mark_used(f"{n}", until) for n in range(20)]
            assert await asyncio.gather(*uses) == [True] * 20
            assert shared.redis.failures == 0
            await shared.close()

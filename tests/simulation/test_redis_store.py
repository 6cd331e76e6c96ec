"""The Redis of the simulation answers as a real one does."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.redis_server import RedisServer, redis_server
from tools.simulation.redis_link import _parse, _write
from tools.simulation.redis_store import RedisStore

from kaiwa.server.shared import redis_scripts


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def _command(rng: random.Random) -> list[str]:
    """One of the commands that Kaiwa sends, about few keys, so that they meet."""
    key, text = rng.choice(("s1", "s2")), rng.choice(("t1", "t2"))
    member, score = rng.choice("abcde"), str(rng.choice((-3, 0, 1, 1.5, 2, 1e12)))
    low, high = rng.choice(("-inf", "0", "1")), rng.choice(("+inf", "1.5", "-5"))
    return rng.choice(
        (
            ["SET", text, member],
            ["SET", text, member, "NX", "PX", "600000"],
            ["SET", text, member, "PX", "0"],
            ["GET", text],
            ["GET", key],
            ["DEL", text, key],
            ["PEXPIRE", key, "600000"],
            ["PEXPIRE", text, "-1"],
            ["ZADD", key, score, member],
            ["ZADD", key, score, member],
            ["ZADD", key, "1", "f", "2", "g"],
            ["ZADD", text, score, member],
            ["ZREM", key, member, "f"],
            ["ZCARD", key],
            ["ZRANGE", key, str(rng.randint(-3, 3)), str(rng.randint(-3, 4))],
            ["ZRANGE", key, "0", "-1", "WITHSCORES"],
            ["ZREMRANGEBYSCORE", key, low, high],
            ["EVAL", redis_scripts.PROBE.replace("redis.call('TIME')", "{1, 'x'}"), "1", "p"],
            ["EVAL", "return {1.9, false, 'x'}", "0"],
            ["EVAL", "return redis.call('ZCARD', KEYS[1]) + ARGV[1]", "1", key, "2"],
            ["NONSENSE", key],
        )
    )


def test_commands_are_answered_alike(redis: RedisServer) -> None:
    rng, store = random.Random(1), RedisStore(time.time)
    for _ in range(600):
        words = _command(rng)
        real = redis.run(*words)
        ours = _write(store.run([word.encode() for word in words]))
        if real.startswith(b"-"):
            # Of an error, the word counts by which programs know it.
            real, ours = real.split()[0], ours.split()[0]
        assert ours == real, words


def test_the_scripts_decide_alike(redis: RedisServer) -> None:
    rng, store = random.Random(2), RedisStore(time.time)
    decisions = set()
    for number in range(300):
        key = rng.choice(("{k}", "{l}"))
        lease = f"lease{rng.randint(0, 9)}"
        until = int((time.time() + rng.choice((-60, 600))) * 1000)
        limits = [str(rng.choice((-1, 2, 3))), str(rng.choice((-1, 2)))]
        counted = rng.choice(("0", "1"))
        enter = [f"live{key}", f"rate{key}", lease, "600000", counted, *limits, "600000"]
        words = rng.choice(
            (
                ["EVAL", redis_scripts.USE, "1", f"used{rng.randint(0, 20)}", str(until)],
                ["EVAL", redis_scripts.ENTER, "2", *enter, f"c{number}"],
                ["EVAL", redis_scripts.RENEW, "1", f"live{key}", "600000", lease],
                ["ZREM", f"live{key}", lease],
                ["DEL", f"rate{key}"],
            )
        )
        real = redis.run(*words).split(b"\r\n")
        ours = _write(store.run([word.encode() for word in words])).split(b"\r\n")
        decisions.add(tuple(real[2:3]))
        if real[2:3] == [b"rate"]:
            # How long to wait depends on the millisecond.
            real, ours = real[:3], ours[:3]
        assert ours == real, words
    assert {(b"in",), (b"rate",), (b"concurrency",)} <= decisions


def test_lives_end_by_the_clock_that_it_is_given() -> None:
    now = [1000.0]
    store = RedisStore(lambda: now[0])
    assert store.run([b"SET", b"k", b"v", b"PX", b"1500"]) == "OK"
    now[0] += 1.4
    assert store.run([b"GET", b"k"]) == b"v"
    now[0] += 0.2
    assert store.run([b"GET", b"k"]) is None
    assert store.run([b"TIME"]) == [b"1001", b"600000"]


def test_a_replica_refuses_writes() -> None:
    store = RedisStore(time.time)
    store.readonly = True
    refused = _write(store.run([b"SET", b"k", b"v"]))
    assert refused.startswith(b"-READONLY")
    assert store.run([b"GET", b"k"]) is None


def test_commands_are_cut_anywhere() -> None:
    data = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n"
    for at in range(len(data)):
        first, rest = _parse(data[:at])
        second, left = _parse(rest + data[at:])
        assert [*first, *second] == [[b"GET", b"k"], [b"PING"]]
        assert left == b""

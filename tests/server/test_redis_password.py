"""The password of Redis: as a stack gives it, and what becomes of a server that has another one."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from tests.server.conftest import MakeKey
from tests.server.live import ROOT, eventually, running
from tests.server.redis_server import StackRedis, require
from tests.server.wire import FRAME, call

from kaiwa.server.shared.redis_client import RedisClient
from kaiwa.server.shared.signing import Signer
from kaiwa.server.shared.state import SharedState

PASSWORDS = {"1-current": "sesame\n", "2-next": "next", "3-previous": "former"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[StackRedis]:
    require()
    folder = tmp_path / "passwords"
    folder.mkdir()
    for name, password in PASSWORDS.items():
        (folder / name).write_text(password)
    server = StackRedis(tmp_path, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def client(redis: StackRedis, password: str | None) -> RedisClient:
    return RedisClient(redis.url, password, "calls go on")


@pytest.mark.parametrize("password", ["sesame", "next", "former"])
async def test_every_password_of_the_folder_counts(redis: StackRedis, password: str) -> None:
    """And its user may do all that a server asks for."""

    async def address() -> str:
        return "http://a:1"

    shared = SharedState(client(redis, password), Signer((b"1" * 32,)), address)
    await shared.sync()
    assert shared.redis.up
    assert await shared.mark_used("one", time.time() + 60)
    assert not await shared.mark_used("one", time.time() + 60)
    await shared.enter("alice", "lease", concurrency=2, per_minute=9, counted=False)
    shared.add_lease("alice", "lease")
    shared.add_call("token")
    await shared.sync()
    assert await shared.owner("token") is None  # this server itself
    assert shared.redis.failures == 0
    await shared.close()


@pytest.mark.parametrize("password", ["wrong", "sesame2", None])
async def test_a_wrong_password_is_named_once_and_redis_is_not_asked(
    redis: StackRedis, password: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    asked = client(redis, password)
    for _ in range(3):
        assert not await asked.probe()
    assert not asked.up
    await asked.close()
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith("the shared state (Redis) does not let this server in; put its password")
    assert line.endswith("; calls go on")
    assert str(password) not in line


async def test_with_a_wrong_password_calls_go_on(
    redis: StackRedis, tmp_path: Path, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("alice")
    password, secret = tmp_path / "password", tmp_path / "secret"
    password.write_text("wrong")
    secret.write_text("s" * 40)
    with running(
        keys=str(key_path),
        redis_url=redis.url,
        redis_password_file=str(password),
        token_secret_file=str(secret),
    ) as live:
        header = {"Authorization": f"Bearer {key}"}
        async with call(live.url(format="pcm"), additional_headers=header) as chat:
            await chat.say(bytes(2 * FRAME))
            await chat.frames(1)
        assert live.metric("kaiwa_shared_state_up") == 0
        await eventually(lambda: bool(live.problems), "it is logged")
        (line,) = live.problems
        assert "does not let this server in" in line
        live.problems.clear()


async def test_passwords_are_seen_nowhere_and_the_user_may_not_do_harm(redis: StackRedis) -> None:
    seen = Path(f"/proc/{redis.process_id}/cmdline").read_bytes()
    seen += Path(f"/proc/{redis.process_id}/environ").read_bytes()
    seen += (Path(redis._folder) / "redis.conf").read_bytes()
    for password in PASSWORDS.values():
        assert password.strip().encode() not in seen
    assert (Path(redis._folder) / "redis.conf").stat().st_mode & 0o077 == 0
    asked: Any
    async with Redis.from_url(redis.url, password="sesame") as asked:
        await asked.set("kaiwa:x", "1")
        for words in (
            "CONFIG GET *", "FLUSHALL", "KEYS *", "SHUTDOWN", "REPLICAOF 127.0.0.1 1", "SAVE",
            "ACL LIST", "SET other 1", "GET other", "SUBSCRIBE x",
            "EVAL return(redis.call('GET','other')) 1 other",
        ):  # fmt: skip
            with pytest.raises(NoPermissionError):
                await asked.execute_command(*words.split())
        assert await asked.get("kaiwa:x") == b"1"


@pytest.mark.parametrize("passwords", [{}, {"1-current": ""}])
def test_without_a_password_it_does_not_start(tmp_path: Path, passwords: dict[str, str]) -> None:
    folder = tmp_path / "passwords"
    folder.mkdir()
    for name, password in passwords.items():
        (folder / name).write_text(password)
    done = subprocess.run(
        ["sh", str(ROOT / "deploy/redis/start.sh"), "--port", "0"],
        env={**os.environ, "REDIS_PASSWORDS": str(folder), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "no password in" in done.stderr
    assert not (tmp_path / "redis.conf").exists()


async def test_a_rotation_refuses_no_server_at_any_moment(tmp_path: Path) -> None:
    """Servers and Redis are replaced in any order: every mixture of before and after."""
    require()
    before = {"1-current": "a", "2-next": "b", "3-previous": "z"}
    after = {"1-current": "b", "2-next": "c", "3-previous": "a"}
    for number, redis_has in enumerate((before, after)):
        folder = tmp_path / f"passwords{number}"
        folder.mkdir()
        for name, password in redis_has.items():
            (folder / name).write_text(password)
        (tmp_path / str(number)).mkdir()
        server = StackRedis(tmp_path / str(number), folder)
        server.start()
        try:
            for server_has in (before, after):
                asked = client(server, server_has["1-current"])
                assert await asyncio.wait_for(asked.probe(), 10), (redis_has, server_has)
                await asked.close()
        finally:
            server.stop()

"""A Redis of a test's own, that can be stopped, hung, started again, aged and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from tests.server.live import ROOT, wait_until


def require() -> None:
    """Skips the test where there is no Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine (Debian: apt-get install redis-server)")
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the package redis is not installed (pip install redis)")


#: Moves what is in Redis towards the past: the times in sorted sets, and what is left of each
#: life. Sorted sets hold times in milliseconds, see `kaiwa.server.shared.state`.
_AGE = """
local by = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -by, member)
    end
  end
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= by then
    redis.call('DEL', key)
  elseif left > by then
    redis.call('PEXPIRE', key, left - by)
  end
end
return nil
"""


def _free_port() -> int:
    """A port that nobody uses now. A Redis of a cluster listens on this port plus 10000 too, so
    it leaves room above.
    """
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port + 10_000 <= 65_535:
            return port


class RedisServer:
    """One, on a port of its own; remembers nothing when it is started again."""

    #: What starts it, and variables for that.
    _program: tuple[str, ...] = ("redis-server",)
    _environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, folder: Path, **options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        options.update(self._options)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [*self._program, *words, "--dir", str(self._folder)],
            env={**os.environ, **self._environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(self._answers, "Redis answers")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Takes connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unhang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def run(self, *words: str) -> bytes:
        """Answer to one command, as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
            parts = [f"*{len(words)}\r\n"]
            parts += [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            link.sendall("".join(parts).encode())
            return link.recv(65_536)

    def age(self, seconds: float) -> None:
        """Makes everything in it older, as if time had passed since it was written."""
        answer = self.run("EVAL", _AGE, "0", str(int(seconds * 1000)))
        assert answer == b"$-1\r\n", answer

    def _answers(self) -> bool:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            pytest.fail(f"redis-server ended with status {status} instead of answering")
        try:
            return self.run("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class StackRedis(RedisServer):
    """One that is started as in a stack, with the passwords in the files of a folder."""

    _program = ("sh", str(ROOT / "deploy/redis/start.sh"))

    def __init__(self, folder: Path, passwords: Path) -> None:
        super().__init__(folder)
        self._environment = {"REDIS_PASSWORDS": str(passwords), "TMPDIR": str(folder)}


@asynccontextmanager
async def slow(redis: RedisServer, seconds: float) -> AsyncIterator[str]:
    """The address of a Redis each of whose answers comes late by some seconds."""

    async def forward(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float
    ) -> None:
        try:
            while data := await reader.read(65_536):
                # The delay is what is tested.
                await asyncio.sleep(late)
                writer.write(data)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_redis = await asyncio.open_connection("127.0.0.1", redis.port)
        tasks.append(asyncio.create_task(forward(reader, to_redis, 0)))
        tasks.append(asyncio.create_task(forward(upstream, writer, seconds)))

    tasks: list[asyncio.Task[None]] = []
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def redis_server(folder: Path, **options: str) -> Iterator[RedisServer]:
    """A running Redis with options of its own; gone afterwards."""
    require()
    server = RedisServer(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()

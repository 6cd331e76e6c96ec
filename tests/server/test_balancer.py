"""A lost call behind a real HAProxy, which sends nobody new to the full server that holds it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.server.live import At, wait_until
from tests.server.redis_server import redis_server
from tests.server.test_replicas import lost, servers
from tests.server.wire import call, pcm16, tone

CONFIG = """
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
listen kaiwa
  bind 127.0.0.1:{port}
  balance leastconn
  option httpchk GET /readyz
  default-server check inter 200ms fall 1 rise 1
{servers}
"""


@dataclass
class Front(At):
    """Where HAProxy listens."""

    process_id: int


@contextmanager
def balancer(folder: Path, ports: list[int]) -> Iterator[Front]:
    """HAProxy over servers of this machine."""
    if shutil.which("haproxy") is None:
        pytest.skip("no haproxy on this machine (Debian: apt-get install haproxy)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = "\n".join(f"  server s{p} 127.0.0.1:{p}" for p in ports)
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, servers=lines))
    process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.PIPE)
    try:
        yield Front(port, process.pid)
    finally:
        process.kill()
        process.communicate()


def answers(at: At) -> bool:
    try:
        return at.ask("/readyz").status == 200
    except OSError:
        return False


async def test_a_lost_call_is_taken_up_through_the_balancer(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as redis,
        servers(2, redis, tmp_path, "--slots", 1, "--queue", 0) as both,
        balancer(tmp_path, [server.port for server in both]) as front,
    ):
        wait_until(lambda: answers(front), "HAProxy answers")
        async with lost(front, redis) as token:
            pass
        (holder,) = [s for s in both if s.ask("/readyz").json["slots_used"]]
        (other,) = [s for s in both if s is not holder]
        # The other one alone is open to new calls now.
        assert holder.ask("/readyz").status == 503
        wait_until(lambda: all(answers(front) for _ in range(10)), "the full one is out")
        url = front.url(resume=token, resumable=1, format="pcm")
        async with call(url, False) as chat:
            assert (await chat.begin())["resumed"] is True
            await chat.say(pcm16(tone(1)))
            await chat.frames(1)
            assert other.metric("kaiwa_calls_passed_on") == 1
            # Its place is still free for somebody else.
            assert other.ask("/readyz").status == 200

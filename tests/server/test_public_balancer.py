"""Callers and attackers at the real configuration of the balancer, before a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.server.live import ROOT, At, Live, running, wait_until
from tests.server.wire import call, pcm16, tone

CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
VOUCHER = "X-Kaiwa-Voucher"
PAGE = "https://app.example"


@contextmanager
def balancer(folder: Path, server: int, **variables: str) -> Iterator[At]:
    """The balancer as it is deployed, with ports of its own and one server of this machine, whose
    name is not looked up."""
    if shutil.which("haproxy") is None:
        pytest.skip("no haproxy on this machine (Debian: apt-get install haproxy)")
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        public, inside = one.getsockname()[1], two.getsockname()[1]
    text = CONFIG.read_text(encoding="utf-8")
    text = re.sub(r"bind :8080", f"bind 127.0.0.1:{public}", text)
    text = re.sub(r"bind :8405", f"bind 127.0.0.1:{inside}", text)
    text, servers = re.subn(
        r"server-template .*",
        f"server one 127.0.0.1:{server} check inter 100ms fall 1 rise 1",
        text,
    )
    assert servers == 3
    config = folder / "haproxy.cfg"
    config.write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", str(config)],
        env={**os.environ, "KAIWA_MAX_CONNECTIONS": "500", **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    front = At(public)

    def answers() -> bool:
        try:
            return front.ask("/v1/info").status == 200
        except OSError:
            return False

    try:
        wait_until(answers, "HAProxy answers")
        yield front
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def behind() -> Iterator[Live]:
    with running(origin=(PAGE,)) as live:
        yield live


@pytest.fixture(scope="module")
def front(behind: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    rate = {"KAIWA_SOURCE_RATE": "100000", "KAIWA_SOURCE_CALLS": "3"}
    with balancer(tmp_path_factory.mktemp("haproxy"), behind.port, **rate) as found:
        yield found


@pytest.mark.parametrize("path", ["//api/chat", "/api/chat/", "/api//chat//"])
async def test_a_call_by_an_address_with_slashes_too_many(path: str, front: At) -> None:
    url = front.url(format="pcm").replace("/api/chat", path)
    async with call(url) as chat:
        await chat.say(pcm16(tone(1)))
        await chat.frames(1)


@pytest.mark.parametrize("path", ["//v1/info", "/v1/info/", "//static//js/main.js"])
def test_a_route_by_an_address_with_slashes_too_many(path: str, front: At) -> None:
    assert front.ask(path).status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "//metrics", "/metrics/", "/ops", "//ops//", "/v1/sessions", "/v1//stats"),
        *(
            "/static/../metrics",
            "/static//../ops",
            "/static/%2e%2e/ops",
            "/%2fmetrics",
            "/v1/info/x",
        ),
    ],
)
def test_no_way_round_what_callers_may_reach(path: str, front: At) -> None:
    answer = front.ask(path)
    assert (answer.status, answer.json["error"]["code"]) == (404, "no_route")


async def test_an_address_written_otherwise_counts_as_a_call(front: At) -> None:
    """An attacker's way round the limit of calls by address."""
    url = front.url(format="pcm").replace("/api/chat", "//api/chat/")
    async with call(url), call(url), call(url):
        assert front.ask("/api//chat").status == 429


def test_the_answer_for_pages_of_allowed_origins_comes_through(front: At) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = front.ask("/v1/tokens", "OPTIONS", **asked)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, PAGE)
    asked["Origin"] = "https://evil.example"
    assert front.ask("/v1/tokens", "OPTIONS", **asked).status == 403


def test_a_voucher_of_a_caller_does_not_reach_a_server(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("X-Mine"):
                seen.extend(self.headers.get_all(VOUCHER) or [])
                seen.append("came")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with balancer(tmp_path, server.server_port) as front:
            for name in (VOUCHER, VOUCHER.lower(), VOUCHER.upper()):
                for path in ("/v1/info", "/api/chat", "//api/chat"):
                    front.ask(path, **{name: "x", "X-Mine": "1"})
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["came"] * 9

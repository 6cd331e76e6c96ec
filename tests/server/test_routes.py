"""HTTP around the calls: what is where, and what is told to those who ask for something else."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from email.utils import formatdate
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.server.live import Live, program

from kaiwa.server.routes.files import PageFiles


@pytest.mark.parametrize("path", ["/nothing", "/api", "/v1/nothing", "/redoc", "/static/none.js"])
def test_what_there_is_not_is_refused_like_everything_else(echo: Live, path: str) -> None:
    answer = echo.ask(path)
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_a_method_that_an_address_does_not_take(echo: Live) -> None:
    answer = echo.ask("/v1/models", "PUT")
    assert (answer.status, answer.json["error"]["code"]) == (405, "method")
    assert answer.headers["allow"] == "GET"


def test_a_conversation_without_a_websocket(echo: Live) -> None:
    answer = echo.ask("/api/chat")
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "ws://" in answer.json["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/ops", "/healthz", "/startupz", "/readyz", "/metrics"])
def test_whoever_asks_by_head_gets_the_status_alone(echo: Live, path: str) -> None:
    full, head = echo.ask(path), echo.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == full.headers["content-type"]


def test_the_page_has_its_icon_where_browsers_look_for_one(echo: Live) -> None:
    answer = echo.ask("/favicon.ico")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("image/svg+xml")


@pytest.mark.parametrize("path", ["/", "/ops", "/docs", "/favicon.ico", "/static/js/main.js"])
def test_every_file_of_the_pages_has_their_policy(echo: Live, path: str) -> None:
    headers = echo.ask(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


def test_a_file_that_changed_is_fetched_again_whatever_its_time(tmp_path: Path) -> None:
    """After an update every file may have the time of the old one, or an older one."""
    (tmp_path / "main.js").write_text("first")
    os.utime(tmp_path / "main.js", (1e9, 1e9))
    client = TestClient(PageFiles(directory=tmp_path))
    old = client.get("/main.js")
    tag = {"If-None-Match": old.headers["etag"], "If-Modified-Since": formatdate(2e9, usegmt=True)}
    same = client.get("/main.js", headers=tag)
    assert (same.status_code, same.headers["cache-control"]) == (304, "no-cache")
    (tmp_path / "new.js").write_text("other")
    (tmp_path / "new.js").replace(tmp_path / "main.js")
    os.utime(tmp_path / "main.js", (1e9, 1e9))
    new = client.get("/main.js", headers=tag)
    assert (new.status_code, new.text) == (200, "other")


def test_metrics_with_a_port_of_their_own_are_not_on_that_of_callers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with program("--model", "synth:echo", "--metrics-port", port) as served:
        assert served.ask("/metrics").status == 404
        for path in ("/healthz", "/startupz", "/readyz"):
            assert served.ask(path).status == 200

        def side(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                read: bytes = answer.read()
                return read

        assert b"kaiwa_ready 1.0" in side("/metrics")
        assert side("/readyz")
        with pytest.raises(urllib.error.HTTPError):
            side("/v1/models")

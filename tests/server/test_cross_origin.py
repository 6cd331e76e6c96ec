"""What browsers ask before a page of another origin may fetch something."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.live import Answer, Live, running

from kaiwa.server.protocols.registry import PROTOCOLS

from .conftest import MakeKey

PAGE = "https://app.example"
ALLOWED = "access-control-allow-headers"
#: What pages fetch, with the method.
PATHS = {
    "/v1/info": "GET",
    "/v1/tokens": "POST",
    "/v1/models": "GET",
    "/v1/realtime/client_secrets": "POST",
}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running(origin=(PAGE,)) as found:
        yield found


def preflight(live: Live, path: str, method: str, origin: str, **more: str) -> Answer:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return live.ask(path, "OPTIONS", **asked, **more)


@pytest.mark.parametrize(("path", "method"), PATHS.items())
def test_a_page_of_an_allowed_origin(path: str, method: str, live: Live) -> None:
    asked = preflight(live, path, method, PAGE)
    assert (asked.status, asked.body) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert method in asked.headers["access-control-allow-methods"]
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert asked.headers["vary"] == "Origin"
    answer = live.ask(path, method, Origin=PAGE)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "Origin"


def test_what_protocols_declare_is_among_them(live: Live) -> None:
    """A route that a protocol adds for pages is looked at here as well."""
    declared = {
        path: method
        for protocol in PROTOCOLS
        for path, methods in protocol.cross_origin.items()
        for method in methods
    }
    assert declared
    for path, method in declared.items():
        assert preflight(live, path, method, PAGE).status == 204
        assert preflight(live, path, method, "https://evil.example").status == 403


def test_headers_of_openai_s_package(live: Live) -> None:
    wanted = "authorization, openai-beta, x-stainless-lang, x-other"
    asked = preflight(
        live,
        "/v1/realtime/client_secrets",
        "POST",
        PAGE,
        **{"Access-Control-Request-Headers": wanted},
    )
    allowed = {name.strip().lower() for name in asked.headers[ALLOWED].split(",")}
    assert allowed == {"authorization", "content-type", "openai-beta", "x-stainless-lang"}
    again = preflight(
        live, "/v1/info", "GET", PAGE, **{"Access-Control-Request-Headers": "x-a\tb,,"}
    )
    assert again.headers[ALLOWED].lower() == "authorization, content-type"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://app.example", ""])
def test_any_other_page(origin: str, live: Live) -> None:
    for path, method in PATHS.items():
        for answer in (
            preflight(live, path, method, origin),
            live.ask(path, method, Origin=origin),
        ):
            assert (answer.status, answer.json["error"]["code"]) == (403, "origin")
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/stats", "/metrics", "/openapi.json", "/"])
def test_nothing_else_is_for_other_pages(path: str, live: Live) -> None:
    asked = preflight(live, path, "GET", PAGE)
    assert asked.status == 405
    for answer in (asked, live.ask(path, Origin=PAGE)):
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_can_read_why_it_is_refused(key_path: Path, make_key: MakeKey) -> None:
    make_key("anna")
    with running(origin=(PAGE,), keys=str(key_path)) as found:
        # A browser sends no key with what it asks first.
        assert preflight(found, "/v1/tokens", "POST", PAGE).status == 204
        answer = found.ask("/v1/tokens", "POST", Origin=PAGE)
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == PAGE


def test_without_an_origin_it_is_no_page(live: Live) -> None:
    assert live.ask("/v1/tokens", "OPTIONS").status == 405
    assert "access-control-allow-origin" not in live.ask("/v1/info").headers


@pytest.mark.parametrize(
    "path",
    ["//api/chat", "/api/chat/", "/api//chat", "///api///chat///", "/%2Fapi/chat"],
)
def test_a_call_by_an_address_with_slashes_too_many(path: str, live: Live) -> None:
    assert upgrade(live, path)[0] == 101
    assert live.ask(path).status == 426


@pytest.mark.parametrize(
    "path", ["//v1/info", "/v1/info/", "/v1//info//", "//", "//static/js/main.js"]
)
def test_a_route_by_an_address_with_slashes_too_many(path: str, live: Live) -> None:
    assert live.ask(path).status == 200


@pytest.mark.parametrize("path", ["/", "/api", "/v1/none", "/api/chat/x", "/api/chat%2f..%2fx"])
@pytest.mark.parametrize("origin", [None, PAGE])
def test_a_call_where_there_are_none(path: str, origin: str | None, live: Live) -> None:
    status, body = upgrade(live, path, origin)
    assert status == 404
    error = json.loads(body)["error"]
    assert error["code"] == "not_found"
    assert "/api/chat" in error["message"]


def upgrade(live: Live, path: str, origin: str | None = None) -> tuple[int, bytes]:
    """Status and body of the answer to a websocket's handshake."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as made:
        made.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"{f'Origin: {origin}' if origin else 'X-A: b'}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        got = b""
        while b"\r\n\r\n" not in got:
            got += made.recv(4096)
        head, _, body = got.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            while more := made.recv(4096):
                body += more
    return status, body

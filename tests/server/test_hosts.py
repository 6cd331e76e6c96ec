"""A page whose name was pointed at the server (DNS rebinding) gets nothing of a running server."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.server.live import At, Program, program

OPEN = ("--model", "synth:echo", "--host", "0.0.0.0", "--no-auth", "--insecure")
#: Everything that tells something, or does.
ROUTES = (
    ("GET", "/v1/sessions"), ("GET", "/metrics"), ("GET", "/v1/stats"), ("GET", "/v1/info"),
    ("GET", "/v1/models"), ("POST", "/v1/tokens"),
    ("DELETE", "/v1/sessions/1"), ("POST", "/v1/realtime/client_secrets"),
    ("GET", "//v1/sessions"), ("GET", "/v1/sessions/"),
)  # fmt: skip
#: Names of others that look like this machine's.
NAMES = (
    "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example",
    "127.0.0.1.nip.io", "evil-localhost", "localhost@evil.example", "evil.example@localhost",
    "evil.example#localhost", "evil.example/localhost", "localhost\\.evil.example", "2130706433",
    "0x7f.0.0.1", "127.1", "[::1].evil.example", "[::1", "box.example.evil", "evilbox.example",
    "localhost:8998:evil", "localhost:evil", "%6cocalhost", "localhost,evil.example",
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Program]:
    with program(*OPEN, "--allowed-hosts", "box.example") as server:
        yield server


def test_a_name_of_others_is_refused(served: Program) -> None:
    for path in ("/v1/sessions", "/metrics", "/v1/stats"):
        answer = served.ask(path, Host="evil.example", Origin="http://evil.example")
        assert (answer.status, answer.json["error"]["code"]) == (403, "host"), path
        assert "--allowed-hosts" in answer.json["error"]["message"]
        for name in ("localhost", "127.0.0.1:8998", "10.0.0.7", "box.example:80"):
            assert served.ask(path, Host=name).status == 200, (path, name)
    assert served.ask("/healthz", Host="evil.example").status == 200


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_its_own_are_refused_everywhere(served: Program, name: str) -> None:
    for method, path in ROUTES:
        more = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
        answer = served.ask(path, method, Host=name, **more)
        assert answer.status in (400, 403, 404, 405), (method, path, answer.status)
        if answer.status == 403:
            assert answer.json["error"]["code"] == "host", (method, path)
    assert served.ask("/v1/sessions", Host="localhost").status == 200


def raw(served: Program, *lines: str) -> tuple[int, bytes]:
    """Status and answer to a request, line by line."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as made:
        made.sendall("\r\n".join((*lines, "", "")).encode())
        answer = b""
        while data := made.recv(4096):
            answer += data
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(
    "path", ["/api/chat", "/v1/realtime", "/v1/live/sessions", "/telephony/twilio"]
)
@pytest.mark.parametrize(
    "names", [("evil.example",), ("localhost", "evil.example"), ("evil.example", "localhost"), ()]
)
def test_calls_are_refused_too(served: Program, path: str, names: tuple[str, ...]) -> None:
    status, answer = raw(
        served,
        f"GET {path} HTTP/1.1",
        *(f"Host: {name}" for name in names),
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
    )
    if names == ("evil.example",):
        assert status == 403
        assert b'"code":"host"' in answer
    else:
        assert status in (400, 403)


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /v1/sessions HTTP/1.1", "Host: localhost", "Host: evil.example"),
        ("GET /v1/sessions HTTP/1.1", "Host: evil.example", "Host: localhost"),
        ("GET http://localhost/v1/sessions HTTP/1.1", "Host: evil.example"),
        ("GET /v1/sessions HTTP/1.1",),
        ("GET /v1/sessions HTTP/1.1", "Host:"),
        ("GET /v1/sessions HTTP/1.0",),
    ],
)
def test_requests_with_two_names_or_none_are_refused(
    served: Program, lines: tuple[str, ...]
) -> None:
    status, answer = raw(served, *lines, "Connection: close")
    assert status in (400, 403, 404), answer
    assert b'"sessions"' not in answer


def test_the_port_of_metrics_has_the_same_names() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with program(*OPEN, "--metrics-port", port):
        aside = At(port)
        assert aside.ask("/metrics", Host="evil.example").status == 403
        assert aside.ask("/metrics", Host="localhost").status == 200
        assert aside.ask("/healthz", Host="evil.example").status == 200

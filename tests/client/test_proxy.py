"""A proxy that the environment names, and a server that is not behind it."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from kaiwa.client import connect
from kaiwa.client.own_server import OwnServer
from kaiwa.client.proxy import proxy_for
from kaiwa.errors import ServerError

#: An address that is nobody's (RFC 5737), as one in a local network is nobody's for a proxy.
LAN = "ws://192.0.2.7:8998"
NAMES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "WS_PROXY",
    "WSS_PROXY",
    "SOCKS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def said(url: str = LAN) -> str:
    with pytest.raises(ServerError) as caught:
        async with connect(url, timeout=5):
            pass
    return str(caught.value)


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://anna:secret@127.0.0.1:{closed_port}")
    told = await said()
    assert f"through the proxy 127.0.0.1:{closed_port}" in told
    assert "add it to NO_PROXY" in told
    assert "192.0.2.7" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 504 No\r\n\r\n",
        b"",
        b"?\r\n\r\n",
    ],
)
async def test_a_proxy_that_does_not_reach_the_server(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        told = await said()
    assert f"through the proxy 127.0.0.1:{port}" in told
    assert "NO_PROXY" in told


async def test_where_there_is_none_none_is_named(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    assert "proxy" not in await said(f"ws://127.0.0.1:{closed_port}")
    monkeypatch.setenv("NO_PROXY", "192.0.2.0,192.0.2.7")
    assert proxy_for(LAN) is None
    assert proxy_for("wss://example.com") is None
    assert proxy_for("ws://example.com") == f"127.0.0.1:{closed_port}"


def test_the_server_of_a_load_test_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(10)
        server = OwnServer(listening.getsockname()[1], 0)

        def answer() -> None:
            made, _ = listening.accept()
            with made:
                made.recv(4096)
                made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert server.get("/readyz") == b"ok"
        thread.join(10)

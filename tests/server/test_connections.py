"""Connections that ask for nothing must not keep others out."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
from tests.server.live import program, running, wait_until
from tests.server.wire import FRAME, call

from kaiwa.server import acceptor
from kaiwa.server.connections import SILENT_PER_ADDRESS, _source

CUT = 'kaiwa_connections_cut_total{why="silent"}'


async def test_silent_connections_of_one_address_are_limited() -> None:
    more = 20
    with running(slots=1) as live, ExitStack() as kept:
        async with call(live.url(format="pcm")) as chat:
            for _ in range(SILENT_PER_ADDRESS + more):
                kept.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=5))
            wait_until(lambda: live.metric(CUT) >= more)
            # Who has asked for something stays, and who does gets in.
            await chat.say(bytes(2 * FRAME))
            await chat.frames(1)


def test_many_callers_of_one_address_at_once_all_get_in() -> None:
    """As behind a balancer, whose address all of them have."""
    with running(slots=1) as live, ExitStack() as kept:
        sockets = [
            kept.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=20))
            for _ in range(3 * SILENT_PER_ADDRESS)
        ]
        ask = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n\r\n".encode()
        for one in sockets:
            one.sendall(ask)
        assert {one.recv(12) for one in sockets} == {b"HTTP/1.1 200"}
        assert live.metric(CUT) == 0


def test_the_limit_of_files_is_not_reached() -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from kaiwa.cli import main; from kaiwa.server import connections;"
        "connections.SILENT_PER_ADDRESS = 10_000;"
        "sys.exit(main(['serve', *sys.argv[1:]]))"
    )
    with program("--model", "synth:echo", script=script) as served, ExitStack() as kept:
        for _ in range(400):
            kept.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=5))
            # Not all in one burst, which the queue of the listening socket would not hold.
            time.sleep(0.005)
        assert served.ask("/healthz").status == 200
        assert served.metric(CUT) > 200
        served.process.terminate()
        _, said = served.ended()
    assert 1 <= said.count("asked for nothing") <= 3


def test_a_connection_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "FIRST_BYTE_SECONDS", 0.2)
    with running(slots=1) as live, ExitStack() as kept:
        sockets = [
            kept.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=20))
            for _ in range(3)
        ]
        assert [one.recv(1) for one in sockets] == [b"", b"", b""]
        assert live.ask("/healthz").status == 200


def test_what_is_sent_with_the_connection_is_not_lost() -> None:
    """In one piece, byte by byte, and with the end of what the client sends."""
    with running(slots=1) as live:
        ask = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n\r\n".encode()
        for size in (1, len(ask)):
            with socket.create_connection(("127.0.0.1", live.port), timeout=20) as one:
                for at in range(0, len(ask), size):
                    one.sendall(ask[at : at + size])
                assert one.recv(12) == b"HTTP/1.1 200"


def test_a_network_of_ipv6_is_one_source() -> None:
    assert _source(("2001:db8::1", 5)) == _source(("2001:db8::ffff:1", 6))
    assert _source(("2001:db8::1", 5)) != _source(("2001:db8:0:1::1", 5))
    assert _source(("::ffff:10.0.0.1", 5)) == _source(("10.0.0.1", 5))
    assert _source(None) == "None"

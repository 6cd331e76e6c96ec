"""Listening, draining, stopping.

uvicorn alone closes every websocket at once on SIGTERM; here the first signal starts a drain, and
the second stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket as sockets
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from kaiwa.engine import Engine
from kaiwa.errors import KaiwaError
from kaiwa.server import logs, tunnel
from kaiwa.server.app import add_health, add_metrics, make_app
from kaiwa.server.guards import ChatProtocol, RequestProtocol
from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import check_startup
from kaiwa.server.state import ServerState

log = logging.getLogger("kaiwa.server")

#: Largest message of a client.
MAX_MESSAGE = 1 << 20
#: Seconds between pings: how soon it is noticed that a client takes its audio late.
PING_SECONDS = 2.0
#: Seconds from the end of a drain until what is left is cut off.
CUT_SECONDS = 5


class Server(uvicorn.Server):
    """A server that drains."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._failed = self._loop.create_task(self._stop_on_failure())

    async def _stop_on_failure(self) -> None:
        await self._state.drained.wait()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops at once."""
        if self._state.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._state.draining = True
        self._loop.call_soon_threadsafe(self._start_drain)

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Ends what is left. Uvicorn leaves the application running when told twice."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    def _start_drain(self) -> None:
        self._drain = asyncio.get_running_loop().create_task(drain(self._state))


async def drain(state: ServerState) -> None:
    """Takes nobody new, lets calls end, ends those that do not, and says so."""
    limit = state.settings.drain_limit
    log.info("draining", extra={"queue": state.calls, "seconds": limit})
    state.start_drain()
    began = state.clock()
    while state.connections and (limit is None or state.clock() - began < limit):
        await asyncio.sleep(0.1)
    for connection in list(state.connections):
        if connection.session is not None:
            connection.session.ask_end("drain", "server restarting")
        elif connection.forward is not None:
            connection.forward.drain()
    cut = state.clock()
    while state.connections and state.clock() - cut < CUT_SECONDS:
        await asyncio.sleep(0.05)
    state.drained.set()


def config_of(settings: ServerSettings, app: Any, **more: Any) -> uvicorn.Config:
    """Settings of uvicorn."""
    return uvicorn.Config(
        app,
        ws=ChatProtocol,
        http=RequestProtocol,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=20.0,
        timeout_graceful_shutdown=CUT_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=settings.ssl_cert,
        ssl_keyfile=settings.ssl_key,
        **more,
    )


def listen(host: str, port: int) -> sockets.socket:
    """A listening socket.

    Raises:
        KaiwaError: the address cannot be had.
    """
    try:
        family = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0][0]
        found = sockets.socket(family, sockets.SOCK_STREAM)
        found.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except OSError as error:
        raise KaiwaError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; {_remedy(error)}"
        ) from None
    found.setblocking(False)
    return found


def _remedy(error: OSError) -> str:
    """What to do where an address cannot be had."""
    if isinstance(error, sockets.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "name an address of this machine with --host (0.0.0.0 is all of them)"
    if error.errno == errno.EACCES:
        return "ports below 1024 are kept for the system; choose another --port"
    return "choose another --port, or stop the program that has it"


def serve(settings: ServerSettings, load: Callable[[ServerSettings], Engine]) -> int:
    """Runs a server until it is told to stop; gives the exit status.

    Raises:
        KaiwaError: a setting, the address, or the model is at fault.
    """
    check_startup(settings)
    if settings.tunnel:
        tunnel.check()
    logs.set_up(settings.log_format, settings.log_level)
    if sys.platform != "win32":
        import uvloop

        return uvloop.run(_serve(settings, load))
    return asyncio.run(_serve(settings, load))


async def _serve(settings: ServerSettings, load: Callable[[ServerSettings], Engine]) -> int:
    state = ServerState(settings, load)
    listening = listen(settings.host, settings.port)
    state.port = port = listening.getsockname()[1]
    # Both addresses are had before anything runs that would have to be taken down again.
    at = None
    if settings.metrics_port is not None:
        at = listen(settings.host, settings.metrics_port)
    server = Server(config_of(settings, make_app(state)), state)
    main = asyncio.create_task(server.serve(sockets=[listening]))
    side = None
    if at is not None:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        add_health(app, state)
        add_metrics(app, state)
        own = uvicorn.Server(config_of(settings, app, lifespan="off"))
        # Only the main server listens to signals.
        own.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        side = (own, asyncio.create_task(own.serve(sockets=[at])))
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    scheme = "https" if settings.secure else "http"
    _say(f"kaiwa serves {settings.model} at {scheme}://{shown}:{port}  (Ctrl-C stops)")
    link = None
    try:
        if settings.tunnel:
            link = await tunnel.start(port, settings.secure)
            _say(f"from outside: {link.url}")
        await main
    finally:
        if not main.done():  # the tunnel failed
            server.should_exit = True
            await main
        if link is not None:
            await link.stop()
        if side is not None:
            side[0].should_exit = True
            await side[1]
    if state.failure is not None:
        raise state.failure
    return 0


def _say(line: str) -> None:
    """For people at a terminal; everything else is in the log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

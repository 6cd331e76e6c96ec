"""Runs a server: sockets, uvicorn, signals.

uvicorn alone closes every websocket at once on SIGTERM; here the first signal starts a drain, and
the second stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket as sockets
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import uvicorn

from kaiwa.errors import KaiwaError
from kaiwa.server import logs, origins, tunnel
from kaiwa.server.acceptor import Acceptor
from kaiwa.server.app import make_app, make_side_app
from kaiwa.server.build import Load, Server, build
from kaiwa.server.connections import Connections
from kaiwa.server.guards import CallWebSocket, GuardedHttp
from kaiwa.server.lifecycle import drain
from kaiwa.server.reload import Reload, listen_for_hangup
from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import check_startup, warn_of_readable_secrets

log = logging.getLogger("kaiwa.server")

#: Largest message of a client.
MAX_MESSAGE = 1 << 20
#: Seconds between pings: how soon it is noticed that a client takes its audio late.
PING_SECONDS = 2.0
#: Seconds from the end of a drain until connections that are left are cut off.
CUT_SECONDS = 5


class GuardedServer(uvicorn.Server):
    """uvicorn's server, except that connections which ask for nothing cost next to nothing."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Begins to listen."""
        if sockets is None or sys.platform == "win32":
            # The event loop of Windows tells of no socket that a connection can be taken.
            await super().startup(sockets)
            return
        await super().startup([])
        for listening in sockets:
            self.servers.append(
                Acceptor(listening, self._protocol, self.config.ssl, self._connections)  # type: ignore[arg-type]
            )

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it."""
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


class DrainingServer(GuardedServer):
    """The same, except that the first signal drains."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config, server.connections)
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        state = self._server.state
        self._waiting = [
            self._loop.create_task(self._stop_after(event))
            for event in (state.drained, state.failed)
        ]

    async def _stop_after(self, event: asyncio.Event) -> None:
        await event.wait()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops at once."""
        state = self._server.state
        if state.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        state.draining = True
        self._loop.call_soon_threadsafe(self._start_drain)

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Closes what is left, and the application, which uvicorn does not do after a second
        signal."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    def _start_drain(self) -> None:
        self._drain = asyncio.get_running_loop().create_task(drain(self._server))


def config_of(
    settings: ServerSettings,
    app: Any,
    connections: Connections | None = None,
    *,
    uploads: Mapping[str, int] | None = None,
    **more: Any,
) -> uvicorn.Config:
    """How uvicorn serves an application.

    Args:
        settings: what the server was told.
        app: the application.
        connections: the limits of all its sockets.
        uploads: most bytes of a body, for paths that take files.
        **more: further settings of uvicorn.
    """
    limits = Connections() if connections is None else connections
    http: Any = functools.partial(GuardedHttp, connections=limits, uploads=uploads)
    return uvicorn.Config(
        app,
        ws=CallWebSocket,
        http=http,
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
        KaiwaError: nothing can listen at the address.
    """
    try:
        family = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0][0]
        found = sockets.socket(family, sockets.SOCK_STREAM)
        found.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        found.bind((host, port))
        # As many as the system allows.
        found.listen(65_535)
    except OSError as error:
        raise KaiwaError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; {_remedy(error)}"
        ) from None
    found.setblocking(False)
    return found


def _remedy(error: OSError) -> str:
    """What to do where nothing can listen at an address."""
    if isinstance(error, sockets.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "name an address of this machine with --host (0.0.0.0 is all of them)"
    if error.errno == errno.EACCES:
        return "ports below 1024 are kept for the system; choose another --port"
    return "choose another --port, or stop the program that has it"


def serve(settings: ServerSettings, load: Load) -> int:
    """Runs a server until it is told to stop; gives the exit status.

    Raises:
        KaiwaError: a setting, the address, or the model is at fault.
    """
    check_startup(settings)
    if settings.tunnel:
        tunnel.check()
    logs.set_up(settings.log_format, settings.log_level)
    warn_of_readable_secrets(settings)
    if sys.platform != "win32":
        import uvloop

        return uvloop.run(_serve(settings, load))
    return asyncio.run(_serve(settings, load))


async def _serve(settings: ServerSettings, load: Load) -> int:
    listening = listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    parts = build(settings, load, port=port)
    # Before anything runs that would have to be stopped again if this fails.
    side_socket = None
    if settings.metrics_port is not None:
        side_socket = listen(settings.host, settings.metrics_port)
    server = DrainingServer(
        config_of(settings, make_app(parts), parts.connections, uploads=parts.uploads), parts
    )
    configs = [server.config]
    side, side_task = None, None
    if side_socket is not None:
        configs.append(config_of(settings, make_side_app(parts), parts.connections, lifespan="off"))
        side = GuardedServer(configs[-1], parts.connections)
    contexts = []
    for config in configs:
        config.load()
        if config.ssl is not None:
            contexts.append(config.ssl)
    listen_for_hangup(
        Reload(settings, parts.access, contexts),
        lambda: server.handle_exit(signal.SIGTERM, None),
    )
    main = asyncio.create_task(server.serve(sockets=[listening]))
    if side_socket is not None and side is not None:
        # Only the main server listens to signals.
        side.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        side_task = asyncio.create_task(side.serve(sockets=[side_socket]))
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    scheme = "https" if settings.secure else "http"
    _say(f"kaiwa serves {settings.model} at {scheme}://{shown}:{port}  (Ctrl-C stops)")
    link = None
    try:
        if settings.tunnel:
            link = await tunnel.start(port, settings.secure)
            name = origins.host_of(link.url)
            if name is not None:
                parts.access.allow_host(name)
            _say(f"from outside: {link.url}")
        await main
    finally:
        if not main.done():  # the tunnel failed
            server.should_exit = True
            await main
        if link is not None:
            await link.stop()
        if side is not None and side_task is not None:
            side.should_exit = True
            await side_task
    if parts.state.failure is not None:
        raise parts.state.failure
    return 0


def _say(line: str) -> None:
    """Prints a line for people at a terminal; everything else goes to the log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

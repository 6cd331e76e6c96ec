"""Takes connections: those that ask for nothing cost next to nothing, however many there are.

The event loop's own server makes a transport and a protocol for every connection, one a turn. A
client that connects and closes again as fast as it can so makes others wait in the queue of the
listening socket for seconds. Here many are taken in a turn of limited length, those that are closed
already are forgotten at once, and a transport is made when the first byte has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket as sockets
import ssl
import time
from collections.abc import Callable
from typing import Any

from kaiwa.server.connections import Connections

#: Seconds for which connections are taken, and those that wait are looked at, before others
#: have their turn.
TURN_SECONDS = 0.003
#: Connections of a turn that get a transport at most.
TRANSPORTS_A_TURN = 64
#: Seconds that the first byte may take, and TLS after it.
FIRST_BYTE_SECONDS = 10.0
#: Seconds without taking any after the system has refused one, for want of files for example.
REST_SECONDS = 0.1


class Acceptor:
    """Takes the connections of a listening socket; as much of `asyncio.Server` as uvicorn uses."""

    def __init__(
        self,
        listening: sockets.socket,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        connections: Connections,
    ) -> None:
        """Begins at once.

        Args:
            listening: does not block.
            protocol: makes the protocol of a connection.
            context: for TLS; None is without.
            connections: limits them.
        """
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
        self._context = context
        self._connections = connections
        self._waiting: dict[_Waiting, None] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._transports = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        # Of its own, because looking at many connections must end when others have their turn, and
        # because the event loop's is dear.
        self._selector = selectors.DefaultSelector()
        self._loop.add_reader(listening, self._accept)
        self._loop.add_reader(self._selector.fileno(), self._look)

    def close(self) -> None:
        """Takes no more, and forgets those that have not said anything."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listening)
        if self._timer is not None:
            self._timer.cancel()
        for waiting in list(self._waiting):
            waiting.abort()
        self._loop.remove_reader(self._selector.fileno())
        self._selector.close()

    async def wait_closed(self) -> None:
        """Until connections that were about to open have opened."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    # ---- taking ----------------------------------------------------------------------------

    def _accept(self) -> None:
        """Takes what waits, for a short time."""
        self._transports = 0
        until = self._loop.time() + TURN_SECONDS
        while self._loop.time() < until and self._transports < TRANSPORTS_A_TURN:
            try:
                made, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                self._rest()
                return
            made.setblocking(False)
            self._take(made, address)

    def _look(self) -> None:
        """Looks at those that have said something or have gone, for a short time."""
        until = self._loop.time() + TURN_SECONDS
        for key, _ in self._selector.select(0):
            key.data.look()
            if self._loop.time() > until:
                return

    def _take(self, made: sockets.socket, address: Any) -> None:
        """A connection has come; gone already, with a first byte, or to be waited for."""
        state = _state(made)
        if state is None:
            made.close()
            return
        waiting = _Waiting(self, made, address)
        self._waiting[waiting] = None
        if not self._connections.came(waiting, waiting.client):
            return
        if state:
            waiting.speaks()
        else:
            self._selector.register(made, selectors.EVENT_READ, waiting)
            waiting.selector = self._selector
            if self._timer is None:
                self._timer = self._loop.call_later(FIRST_BYTE_SECONDS, self._give_up)

    def _rest(self) -> None:
        """The system has no files left; without a rest it would be asked all the time."""
        self._connections.cut("limit", None)
        self._loop.remove_reader(self._listening)

        def go_on() -> None:
            if not self._closed:
                self._loop.add_reader(self._listening, self._accept)

        self._loop.call_later(REST_SECONDS, go_on)

    def _give_up(self) -> None:
        """Ends those that have said nothing for too long."""
        self._timer = None
        before = time.monotonic() - FIRST_BYTE_SECONDS
        for waiting in list(self._waiting):
            if waiting.came > before:
                later = max(0.1, waiting.came - before)
                self._timer = self._loop.call_later(later, self._give_up)
                return
            waiting.abort()

    # ---- what becomes of them --------------------------------------------------------------

    def forget(self, waiting: _Waiting) -> None:
        """A connection does not wait any more."""
        self._waiting.pop(waiting, None)
        self._connections.went(waiting)

    def open(self, made: sockets.socket) -> None:
        """The first byte has come: makes transport and protocol."""
        self._transports += 1
        task = self._loop.create_task(self._open(made))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, made: sockets.socket) -> None:
        # A client that does not know TLS, or went meanwhile.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await self._loop.connect_accepted_socket(
                self._protocol,
                made,
                ssl=self._context,
                ssl_handshake_timeout=None if self._context is None else FIRST_BYTE_SECONDS,
            )
            return
        made.close()


class _Waiting(asyncio.Transport):
    """A connection whose client has not said anything yet."""

    def __init__(self, acceptor: Acceptor, made: sockets.socket, address: Any) -> None:
        super().__init__({"peername": address})
        self._acceptor = acceptor
        self._made: sockets.socket | None = made
        #: What tells that it has said something, once it does.
        self.selector: selectors.BaseSelector | None = None
        self.came = time.monotonic()
        #: Address and port.
        self.client = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None

    def look(self) -> None:
        """It has said something, or has gone."""
        if self._made is None:
            return
        state = _state(self._made)
        if state is None:
            self.abort()
        elif state:
            self.speaks()

    def speaks(self) -> None:
        """Its first byte has come."""
        made = self._leave()
        if made is not None:
            self._acceptor.open(made)

    def abort(self) -> None:
        """Ends it."""
        made = self._leave()
        if made is not None:
            made.close()

    def _leave(self) -> sockets.socket | None:
        made, self._made = self._made, None
        if made is not None:
            if self.selector is not None:
                self.selector.unregister(made)
            self._acceptor.forget(self)
        return made


def _state(made: sockets.socket) -> bool | None:
    """Whether a first byte has come; None if the client has gone."""
    try:
        return True if made.recv(1, sockets.MSG_PEEK) else None
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return None

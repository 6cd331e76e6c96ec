"""A call that another server holds, taken up through this one: messages are passed on both ways.

Neither end notices. A close is passed on with its code, and when the client is lost the connection
to the other server is broken as well, so that it holds the call again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from kaiwa.server.channel import Channel, Disconnected
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.vouchers import HEADER as VOUCHER

log = logging.getLogger("kaiwa.server")

#: Seconds that connecting to the other server, and closing, may take.
CONNECT_SECONDS = 2.0
#: Bytes and messages that may wait here to be passed on. More would only delay the call.
_WAITING_BYTES = 8192
_WAITING = 4
#: Close codes after which a client counts as lost; the other server is sent no close frame either.
_LOST = (1005, 1006, 1011, 1012)
#: Parameters that are not passed on: a token is used up here.
_NOT_PASSED_ON = ("token",)
#: Statuses of refusals that are passed on to the client; after others a new call is begun here.
_FOR_CLIENT = (401, 429)

#: Connects to the server that holds a call, as `reach` does.
Reach: TypeAlias = Callable[[str, str, Mapping[str, str], str], Awaitable[ClientConnection | None]]


async def reach(
    address: str, path: str, query: Mapping[str, str], voucher: str
) -> ClientConnection | None:
    """A connection to the server that holds a call; None if it does not, or cannot be reached.

    Args:
        address: of the other server, `http://10.0.1.5:8998`.
        path: where calls of the protocol are opened.
        query: what the client asks for.
        voucher: tells the other server for whom (`Admission.vouch`).

    Raises:
        Refused: the key of the caller has no more room, or was revoked.
    """
    asked = urlencode({k: v for k, v in query.items() if k not in _NOT_PASSED_ON})
    url = f"ws{address.removeprefix('http')}{path}?{asked}"
    try:
        upstream = await connect(
            url,
            additional_headers={VOUCHER: voucher},
            compression=None,
            proxy=None,
            open_timeout=CONNECT_SECONDS,
            close_timeout=CONNECT_SECONDS,
            max_queue=_WAITING,
            write_limit=_WAITING_BYTES,
            ssl=ssl.create_default_context() if url.startswith("wss:") else None,
        )
    except InvalidStatus as answer:
        refused = _refusal(answer)
        if refused.status in _FOR_CLIENT:
            raise refused from None
        if refused.code != "not_held":
            log.warning("a call could not be passed on to %s: %s", address, refused.message)
        return None
    except (OSError, asyncio.TimeoutError, WebSocketException) as error:
        log.warning("a call could not be passed on to %s: %s", address, error or type(error))
        return None
    raw = upstream.transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, _WAITING_BYTES)
    return upstream


@dataclass(frozen=True)
class Ended:
    """What the client is to be told at the end; code 0: it went by itself."""

    code: int = 0
    reason: str = ""
    #: Said before the close; empty if the other server has said it.
    message: str = ""


class Forward:
    """One call on its way through this server."""

    def __init__(
        self, client: Channel, upstream: ClientConnection, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._clock = clock
        #: Since when a message to the client has not been taken; None: nothing waits.
        self.sending_since: float | None = None
        self._draining = False

    async def run(self) -> Ended:
        """Passes messages on until one side goes; gives what the client is to be told."""
        up = asyncio.create_task(self._up())
        down = asyncio.create_task(self._down())
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            ended = await asyncio.gather(up, down, return_exceptions=True)
            self._upstream.transport.abort()
        for end in ended:
            if isinstance(end, Ended):
                return end
        return Ended()

    def drain(self) -> None:
        """This server stops: the other one loses the client, and holds its call."""
        self._draining = True
        self._upstream.transport.abort()

    def abort(self) -> None:
        """Leaves the other server without a word, if it has not been left yet."""
        self._upstream.transport.abort()

    async def _up(self) -> Ended:
        """What the client sends, until it goes."""
        while True:
            try:
                message = await self._client.receive()
            except Disconnected as gone:
                if gone.code not in _LOST:
                    await self._upstream.close(gone.code)
                return Ended()
            try:
                await self._upstream.send(message)
            except ConnectionClosed:
                return self._how_it_ended()

    async def _down(self) -> Ended:
        """What the other server sends, until it closes."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await self._upstream.recv()
                self.sending_since = self._clock()
                await self._client.send(message)
                self.sending_since = None
        return self._how_it_ended()

    def _how_it_ended(self) -> Ended:
        """The other server's close, as the client is to get it."""
        if self._draining:
            return Ended(1012, "drain", "server restarting")
        close = self._upstream.protocol.close_rcvd
        if close is None:
            return Ended(1013, "lost", "the server of this call is gone; call again")
        return Ended(1000 if close.code == 1005 else close.code, close.reason)


def _refusal(answer: InvalidStatus) -> Refused:
    """What the other server said in place of letting the call in."""
    response = answer.response
    code, message = "unknown", f"it answered {response.status_code}"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(response.body or b"{}")["error"]
        code, message = str(error["code"]), str(error["message"])
    wait = response.headers.get("Retry-After", "")
    return Refused(response.status_code, code, message, int(wait) if wait.isdecimal() else None)

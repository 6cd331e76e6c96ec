"""A websocket as the channel of a call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.refusal import Refused

#: What the layers below raise when the connection has broken.
_BROKEN = (WebSocketDisconnect, RuntimeError, OSError)


class WebSocketChannel(Channel):
    """One websocket, with what `guards.CallWebSocket` adds to it."""

    def __init__(self, socket: WebSocket, observe_ping: Callable[[float], object]) -> None:
        """Wraps a websocket that was not accepted yet.

        Args:
            socket: the websocket.
            observe_ping: told the seconds that each ping's answer took.
        """
        self._socket = socket
        self._extensions: dict[str, Any] = socket.scope.get("extensions", {})
        self._extensions["kaiwa.ping_rtt"] = observe_ping
        self.headers = socket.headers
        self.query = socket.query_params
        self.path = str(socket.scope["path"])
        self._accepted = False

    @property
    def accepted(self) -> bool:
        """Whether it was accepted."""
        return self._accepted

    @property
    def open(self) -> bool:
        """Whether it was accepted and not closed from here."""
        return self._socket.application_state == WebSocketState.CONNECTED

    async def accept(self, subprotocol: str | None = None) -> None:
        """Completes the handshake."""
        try:
            await self._socket.accept(subprotocol)
        except _BROKEN:
            raise Disconnected from None
        self._accepted = True

    async def deny(self, refused: Refused) -> bool:
        """Answers the handshake with an HTTP status; browsers keep that from their pages."""
        if "origin" in self.headers and refused.code not in ("origin", "host"):
            return False
        answer = JSONResponse(refused.body(), refused.status, refused.headers())
        with contextlib.suppress(Exception):
            await self._socket.send_denial_response(answer)
        return True

    async def receive(self) -> Message:
        """The next message."""
        try:
            message = await self._socket.receive()
        except _BROKEN:
            raise Disconnected from None
        if message["type"] == "websocket.disconnect":
            flooded = "kaiwa.flooded" in self._extensions
            raise Disconnected(message.get("code") or 1006, flooded=flooded)
        data: bytes | None = message.get("bytes")
        return message.get("text") or "" if data is None else data

    async def send(self, message: Message) -> None:
        """Sends a binary or a text message."""
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(message)
        except _BROKEN:
            raise Disconnected from None

    async def close(self, code: int, reason: str) -> None:
        """Sends the close frame."""
        try:
            await self._socket.close(code, reason)
        except _BROKEN:
            raise Disconnected from None

    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        """Puts the last messages behind what waits, without waiting."""
        close = self._extensions.get("kaiwa.close_at_once")
        if close is not None:
            close(messages, code, reason)
        else:
            self.abort()

    def abort(self) -> None:
        """Cuts the connection."""
        transport = self._extensions.get("kaiwa.transport")
        if transport is not None:
            transport.abort()

    def cut_flood(self) -> None:
        """Sends the close frame at once, and reads nothing more."""
        cut = self._extensions.get("kaiwa.cut_flood")
        if cut is not None:
            cut()
        else:
            self.abort()

    def seconds_behind(self) -> float:
        """How long the client has owed the answer to a ping, which waits behind audio that was not
        taken."""
        unanswered = self._extensions.get("kaiwa.unanswered")
        return 0.0 if unanswered is None else float(unanswered())

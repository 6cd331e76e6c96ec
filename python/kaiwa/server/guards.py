"""uvicorn's protocols, hardened: what a client may not do to a server that others use."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

#: Bytes to a client that may wait in this process and in the kernel: more would be delay.
WRITE_BUFFER = 8192
SEND_BUFFER = 16 << 10
#: Seconds from connecting, or from a request's first byte, to its end.
REQUEST_SECONDS = 10.0
#: Bytes of answers to pings that a client may leave unread.
UNREAD = 64 << 10
#: Pieces in which a message may come.
PIECES = 1024
#: Seconds from our close frame until a client that does not answer it is cut off.
PARTING = 10.0

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class CallWebSocket(WebSocketsSansIOProtocol):
    """Websockets with small buffers: what a slow client has not taken must stay in our own
    queues, where it can be dropped."""

    def connection_made(self, transport: Any) -> None:
        """A websocket begins on this connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client; a request that is none is answered, which uvicorn leaves out."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_complete = self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """Lets the application cut the connection off."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions["kaiwa.transport"] = self.transport
            extensions["kaiwa.unanswered"] = self.unanswered
            extensions["kaiwa.close_at_once"] = self.close_at_once

    def handle_ping(self) -> None:
        """Answers, unless the client does not read what it asked for."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > UNREAD:
            self.transport.abort()

    def handle_pong(self, event: Any) -> None:
        """Tells the application how long its ping took, if it wants to know."""
        asked = self.pending_ping_payload
        super().handle_pong(event)
        extensions: Any = self.scope["extensions"]
        observe = extensions.get("kaiwa.ping_rtt")
        if observe is not None and asked is not None and self.pending_ping_payload != asked:
            observe(self.last_ping_rtt)

    def unanswered(self) -> float:
        """Seconds that the client has owed the answer to a ping; 0 if it owes none. The ping waits
        behind audio that it has not taken, so this is how late that audio is."""
        if self.pending_ping_payload is None:
            return 0.0
        return self.loop.time() - self.ping_sent_at

    def close_at_once(self, messages: Iterable[bytes | str], code: int, reason: str) -> None:
        """Puts last messages and the close frame behind what a client has not taken, without
        waiting for it."""
        if self.close_sent or self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        self.stop_keepalive()
        for message in messages:
            if isinstance(message, bytes):
                self.conn.send_binary(message)
            else:
                self.conn.send_text(message.encode())
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._cut_later()

    def _cut_later(self) -> None:
        """A client that never takes the close frame must not keep its connection for ever, which
        `transport.close` would wait for."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(PARTING, self._cut)

    def _cut(self) -> None:
        # What the system has taken over still gets to a client that reads again.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def handle_cont(self, event: Any) -> None:
        """A piece of a message; empty ones cost memory too."""
        if self.close_sent:
            return
        if len(self.frames) >= PIECES:
            self.conn.fail(1009, "too many pieces")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    async def send(self, message: Any) -> None:
        """Tells uvicorn that a refusal completes the handshake as well."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self._cut_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Without a close frame it was lost (1006); uvicorn would say 1005, a normal end."""
        if self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)


class GuardedHttp(H11Protocol):
    """HTTP whose clients must send a whole request in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        # An upgraded connection has a protocol of its own by now.
        if self.transport.get_protocol() is self:
            self.transport.abort()

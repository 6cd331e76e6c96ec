"""uvicorn's HTTP and websocket protocols with limits, so that one client cannot harm the others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket as sockets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from kaiwa.server.connections import Connections
from kaiwa.server.frame_budget import SMALL, FrameBudget

#: Bytes that may wait for a client in this process, and in the kernel. Audio that waits there is
#: heard late.
WRITE_BUFFER = 8192
SEND_BUFFER = 16 << 10
#: Seconds that a request may take to arrive, from the connection or from its first byte.
REQUEST_SECONDS = 10.0
#: Bytes of pongs that a client may leave unread.
MAX_UNREAD_PONGS = 64 << 10
#: Frames of which a message may consist.
MAX_FRAGMENTS = 1024
#: Seconds that a client has to answer the server's close frame.
CLOSE_SECONDS = 10.0
#: Bytes of a client that are parsed at once, and frames after which others have their turn: empty
#: frames have 6 bytes, and a read brings up to 256 KiB.
SLICE = 4096
FRAMES_A_TURN = 64
#: Bytes that may wait for their turn before no more are read.
MAX_UNPARSED = 64 << 10
#: Seconds that a client which sent far too many frames has to read why it is cut off.
FLOOD_SECONDS = 1.0

#: Bytes of a request that are parsed at once: of a body in chunks of one byte each has six.
HTTP_SLICE = 1024
#: Bytes of a body on the wire, where no files are taken. Nothing else that the server takes is as
#: long.
MAX_BODY = 64 << 10
#: Seconds that a request with a file may take to arrive.
UPLOAD_SECONDS = 300.0

_TOO_LARGE = (
    b'{"error":{"type":"invalid_request_error","code":"too_large","message":"the body of this '
    b'request is longer than anything the server takes here; send less","param":null}}'
)
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class CallWebSocket(WebSocketsSansIOProtocol):
    """Websockets with small buffers: what a slow client has not taken has to stay in the engine's
    queues, where it can be dropped.

    What clients send is parsed in small slices, between which others have their turn, and every
    frame counts: pings and pongs never reach the application, which could not limit them.
    """

    def __init__(self, *args: Any, connections: Connections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = Connections() if connections is None else connections
        self._budget = FrameBudget(self.loop.time())
        self._unparsed = bytearray()
        self._turn: asyncio.Handle | None = None
        self._flooded = False

    def connection_made(self, transport: Any) -> None:
        """A websocket begins on this connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        if self._flooded:
            return
        self._unparsed += data
        if self._turn is None:
            self._parse_some()
        if len(self._unparsed) > MAX_UNPARSED and not self.transport.is_closing():
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """Nothing more will come: what has come is parsed, as there may be a close frame in it."""
        self._parse_all()
        super().eof_received()

    def _parse_all(self) -> None:
        """Parses what waits. The budget bounds how long that takes."""
        while self._unparsed and not self.transport.is_closing():
            self._parse_slice()

    def _parse_some(self) -> None:
        """Parses what waits until it is the turn of others, or the application has to take what
        was parsed."""
        self._turn = None
        frames = 0
        while (
            self._unparsed
            and not self.read_paused
            and frames < FRAMES_A_TURN
            and not self.transport.is_closing()
        ):
            frames += self._parse_slice()
        self._go_on()

    def _go_on(self) -> None:
        """Sees to it that what waits has its turn, and that there will be more."""
        if self.transport.is_closing() or self._flooded or self.read_paused:
            return
        if not self._unparsed:
            self.transport.resume_reading()
        elif self._turn is None:
            self._turn = self.loop.call_soon(self._parse_some)

    def _parse_slice(self) -> int:
        """Parses a few KiB; gives the number of frames. What is not HTTP is answered too, which
        uvicorn leaves out."""
        part = bytes(self._unparsed[:SLICE])
        del self._unparsed[:SLICE]
        self.conn.receive_data(part)
        frames = [event for event in self.conn.events if isinstance(event, Frame)]
        small = sum(
            len(frame.data) < SMALL or frame.opcode in (Opcode.PING, Opcode.PONG)
            for frame in frames
        )
        if frames and not self._budget.spend(small, len(frames) - small, self.loop.time()):
            self._end_flood()
        elif self.conn.parser_exc is not None:
            self.handle_parser_exception()
        else:
            self.handle_events()
        self._answer_no_http()
        return len(frames)

    def _end_flood(self) -> None:
        """Cuts off a client that sends far more frames than any conversation needs."""
        if self._flooded:
            return
        self._flooded = True
        self._unparsed.clear()
        self.conn.events_received()
        self._connections.cut("flood", self.client)
        self.transport.pause_reading()
        if not self.handshake_complete or self.close_sent or self.conn.state is not State.OPEN:
            self.transport.abort()
            return
        self.stop_keepalive()
        extensions: Any = self.scope["extensions"]
        extensions["kaiwa.flooded"] = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1008, "reason": "flood"})
        self.conn.send_close(1008, "flood")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Not `close`: with bytes unread the system would reset the connection before this arrives.
        self.close_timer = self.loop.call_later(FLOOD_SECONDS, self.transport.abort)

    def _answer_no_http(self) -> None:
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_complete = self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """Hands the application what `call.websocket` needs beyond ASGI."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions["kaiwa.transport"] = self.transport
            extensions["kaiwa.unanswered"] = self.unanswered
            extensions["kaiwa.close_at_once"] = self.close_at_once
            extensions["kaiwa.cut_flood"] = self._end_flood

    def handle_ping(self) -> None:
        """Answers a ping; cuts off a client that sends them and reads no answers."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_PONGS:
            self.transport.abort()

    def handle_pong(self, event: Any) -> None:
        """Tells the application how long the answer to a ping took."""
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
        self.read_paused = False
        self._go_on()
        self._cut_later()

    def _cut_later(self) -> None:
        """A client that never takes the close frame must not keep its connection for ever, which
        `transport.close` would wait for."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self._cut)

    def _cut(self) -> None:
        # What the system has taken over still gets to a client that reads again.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """A message is whole. Text that is none ends the connection; uvicorn would log a traceback
        for each."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(1007, "text is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_cont(self, event: Any) -> None:
        """A further frame of a message. Their number is limited: empty ones take memory too."""
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAGMENTS:
            self.conn.fail(1009, "too many pieces")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    async def send(self, message: Any) -> None:
        """Sends for the application. A refusal ends the handshake, too; uvicorn misses that."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self._cut_later()
            self._go_on()

    async def receive(self) -> Any:
        """The next message for the application; what waits behind it may be parsed now."""
        message = await super().receive()
        if self._unparsed:
            self._go_on()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """Without a close frame the connection was lost, which is code 1006; uvicorn would give
        1005, the code for a close frame without one."""
        if self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        if self._turn is not None:
            self._turn.cancel()
        self._connections.went(self.transport)
        super().connection_lost(exc)


class _Flow(FlowControl):
    """uvicorn's flow control, which tells when reading goes on: bytes that came before it stopped
    may be the last ones."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        """The application takes more."""
        was_paused = self.read_paused
        super().resume_reading()
        if was_paused:
            self._resumed()


class GuardedHttp(H11Protocol):
    """HTTP whose clients must send a whole request in time, with a body that is not long.

    What they send is parsed in small slices, between which others have their turn.
    """

    def __init__(
        self,
        *args: Any,
        connections: Connections | None = None,
        uploads: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        """A connection.

        Args:
            *args: of uvicorn.
            connections: limits of all connections.
            uploads: most bytes of a body, for paths that take files.
            **kwargs: of uvicorn.
        """
        super().__init__(*args, **kwargs)
        self._connections = Connections() if connections is None else connections
        self._uploads = {} if uploads is None else uploads
        self._late: asyncio.TimerHandle | None = None
        self._unparsed = bytearray()
        self._turn: asyncio.Handle | None = None
        #: Bytes of the body that is arriving; whether it was refused.
        self._body = 0
        self._uploading = False
        self._refused = False
        self.ws_protocol_class = functools.partial(  # type: ignore[assignment]
            CallWebSocket, connections=self._connections
        )

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._resumed)
        if self._connections.came(transport, self.client):
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._refused or self.transport.is_closing():
            return
        self._unparsed += data
        if self._turn is None:
            self._parse_slice()
        if len(self._unparsed) > MAX_UNPARSED and not self.transport.is_closing():
            self.transport.pause_reading()

    def on_response_complete(self) -> None:
        """The next request may be parsed."""
        super().on_response_complete()
        if self._unparsed and self._turn is None and not self._refused:
            self._go_on()

    def _parse_slice(self) -> None:
        """Parses a little of what waits, and sees to it that the rest has its turn."""
        self._turn = None
        if self._refused or self.transport.is_closing():
            return
        part = bytes(self._unparsed[:HTTP_SLICE])
        del self._unparsed[:HTTP_SLICE]
        was_body = self.conn.their_state is h11.SEND_BODY
        super().data_received(part)
        if self.transport.get_protocol() is not self:
            # A websocket now. Nothing counts that was sent before its handshake was answered.
            self._unparsed.clear()
            self._connections.asked(self.transport)
            self._unwatch()
            return
        if self.headers is not None:
            self._connections.asked(self.transport)
        self._watch()
        # Bytes of the slice in which a body begins or ends are not told apart: at most one each.
        is_body = self.conn.their_state is h11.SEND_BODY
        self._body = self._body + len(part) if was_body and is_body else 0
        if self._body > (self._most_upload() or MAX_BODY):
            self._refuse_body()
        else:
            self._go_on()

    def _resumed(self) -> None:
        """The application has taken what was parsed of a long body: what waits may be parsed."""
        if self._unparsed and self._turn is None and not self._refused:
            self._go_on()

    def _go_on(self) -> None:
        """Sees to it that what waits has its turn, and that there will be more."""
        if self.transport.is_closing() or self.flow.read_paused:
            return
        if self._unparsed:
            self._turn = self.loop.call_soon(self._parse_slice)
        else:
            self.transport.resume_reading()

    def _most_upload(self) -> int:
        """Most bytes of the body that is arriving, if it may be a file; else 0."""
        if not self._uploads or self.headers is None or self.scope is None:
            return 0
        if self.scope["method"] != "POST":
            return 0
        return self._uploads.get(self.scope["path"].rstrip("/"), 0)

    def _refuse_body(self) -> None:
        """Ends a request whose body is too long: what reads it finds that the client has gone."""
        self._refused = True
        self._unparsed.clear()
        self._unwatch()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state is h11.SEND_RESPONSE:
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_TOO_LARGE)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=413, headers=headers, reason=b"Content Too Large"),
                h11.Data(data=_TOO_LARGE),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.pause_reading()
        # Not `close`: with bytes unread the system would reset the connection before this arrives.
        self.loop.call_later(FLOOD_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._connections.went(self.transport)
        self._unwatch()
        if self._turn is not None:
            self._turn.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(REQUEST_SECONDS, self._give_up)
        elif self._body and not self._uploading and self._most_upload():
            # A file takes longer than other requests.
            self._late.cancel()
            self._uploading = True
            self._late = self.loop.call_later(UPLOAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._uploading = False

    def _give_up(self) -> None:
        # An upgraded connection has a protocol of its own by now.
        if self.transport.get_protocol() is self:
            self.transport.abort()

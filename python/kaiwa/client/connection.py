"""A conversation with a server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from kaiwa import _arrays
from kaiwa.client import messages, refusals, wires
from kaiwa.client.messages import Audio, Error, Event, Handshake, Metadata, Ping, State
from kaiwa.client.params import ChatParams
from kaiwa.client.transport import Format
from kaiwa.client.url import chat_url, is_local, without_query
from kaiwa.client.wire import Answer, Message, Wire
from kaiwa.errors import InputError, ServerError

#: Told the position in the queue (1 is next) while waiting; None if it is unknown.
OnQueue = Callable[[int | None], object]

#: Seconds to wait for a server to open, and to confirm a close.
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0


class ChatClient:
    """One call: samples go in with :meth:`send_pcm`, events come out by iteration.

    Iteration ends when the connection does, and raises `ServerError` if that was neither our
    wish nor a normal end (close 1000). Use :func:`connect`, or :meth:`open` and :meth:`ready`.

    Attributes:
        url: address without its query.
        wire: the wire protocol.
        handshake: the server's; None while waiting for a slot.
        metadata: what the server said about the conversation, empty before.
        error: the last error message, if any.
        ignored: messages that meant nothing.
        round_trip: seconds that the last :meth:`ping` took; None before.
    """

    def __init__(self, socket: ClientConnection, url: str, wire: Wire, *, decode: bool) -> None:
        self.url = url
        self.wire = wire
        self.handshake: Handshake | None = None
        self.metadata: dict[str, Any] = {}
        self.error: str | None = None
        self.ignored = 0
        self.round_trip: float | None = None
        self._socket = socket
        self._decode = decode
        self._early: deque[Event] = deque()
        #: Events of the last message.
        self._read: deque[Event] = deque()
        self._closing = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        key: str | None = None,
        token: str | None = None,
        protocol: str = "kyutai",
        format: Format | None = None,  # noqa: A002
        params: ChatParams | Mapping[str, str] | None = None,
        decode: bool = True,
        timeout: float = OPEN_SECONDS,
    ) -> ChatClient:
        """Connects, without waiting for a slot.

        Args:
            url: as for :func:`kaiwa.client.url.chat_url`.
            key: sent as `Authorization: Bearer`, or as the protocol has it.
            token: a token for one connection, in place of a key.
            protocol: one of :data:`kaiwa.client.wires.WIRES`.
            format: how audio travels, in both directions, where the protocol leaves a choice; None
                is its first one.
            params: query parameters.
            decode: False leaves `Audio.pcm` empty.
            timeout: seconds for the connection.

        Raises:
            InputError: the address, the key, the protocol or the format is wrong, or the protocol
                has no place for the parameters.
            ServerError: there is no server, or it refused.
        """
        query = params.query() if isinstance(params, ChatParams) else dict(params or {})
        wire = wires.wire(protocol, format)
        if query and not wire.sampling:
            raise InputError(
                f"{', '.join(query)}: a call by {wire.name} says nothing about it; leave it out"
            )
        query = wire.query(query)
        if token is not None and wire.announces:
            query["token"] = token
        if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
            raise InputError("the key has characters that no key has; pass it as it was shown")
        address = chat_url(url, query, wire.path)
        # Where there is no query, a token is said where a key is.
        secret = key if wire.announces else token or key
        try:
            socket = await open_websocket(
                address,
                additional_headers=wire.headers(key),
                compression=None,
                proxy=None if is_local(address) else True,
                open_timeout=timeout,
                close_timeout=CLOSE_SECONDS,
                # Some servers take the payload of a ping for a message; audio keeps us alive.
                ping_interval=None,
            )
        except refusals.CONNECTING as error:
            raise refusals.unreachable(address, error) from None
        chat = cls(socket, without_query(address), wire, decode=decode)
        await chat.send(wire.hello(secret))
        return chat

    async def ready(
        self, timeout: float | None = None, on_queue: OnQueue | None = None
    ) -> Handshake:
        """Waits for the slot; what comes before it is kept for the iteration. Where a server does
        not say when that is, audio is sent at once, and nothing is waited for.

        Raises:
            ServerError: the server ended the call, or `timeout` seconds have passed.
        """
        try:
            return await asyncio.wait_for(self._handshake(on_queue), timeout)
        except asyncio.TimeoutError:
            raise ServerError(
                f"{self.url} gave no slot in {timeout:g} s; try again later",
                code="timeout",
                retry=refusals.RETRY,
            ) from None

    async def _handshake(self, on_queue: OnQueue | None) -> Handshake:
        """Reads up to the handshake."""
        if not self.wire.announces:
            self.handshake = Handshake(0, 0, time.perf_counter())
        while self.handshake is None:
            event = await self._next()
            if event is None:
                raise refusals.closed(
                    self.url, self.close_code or 1006, self.close_reason, self.error
                )
            if isinstance(event, State) and event.state == "queued":
                if on_queue is not None:
                    on_queue(event.position)
            elif not isinstance(event, Handshake):
                self._early.append(event)
        return self.handshake

    async def send_pcm(self, pcm: NDArray[np.float32]) -> bool:
        """Sends float32 samples `[n]` at 24 kHz; False if the connection is closed.

        Raises:
            InputError: wrong type or shape, or a value that is not finite.
        """
        return await self.send(self.wire.audio(_arrays.block(pcm)))

    async def send(self, messages: Iterable[Message]) -> bool:
        """Sends whole messages of the protocol; False if the connection is closed."""
        try:
            for message in messages:
                await self._socket.send(message)
        except ConnectionClosed:
            return False
        return not self.closed

    async def ping(self) -> bool:
        """Sends a message that comes back; iteration then sets `round_trip`. False if the
        connection is closed, or the protocol has no such message."""
        message = self.wire.ping(time.perf_counter_ns().to_bytes(8, "little"))
        return message is not None and await self.send((message,))

    async def _next(self) -> Event | None:
        """The next event; None when the connection is closed."""
        while not self._read:
            try:
                message = await self._socket.recv()
            except ConnectionClosed:
                return None
            meant = self.wire.read(message, time.perf_counter())
            self.ignored += not meant
            for item in meant:
                if isinstance(item, Answer):
                    await self.send(item.messages)
                else:
                    self._read.append(item)
        return self._note(self._read.popleft())

    def _note(self, event: Event) -> Event:
        """Updates the attributes from an event, and decodes audio."""
        if isinstance(event, Audio):
            if self._decode:
                return replace(event, pcm=self.wire.decode(event.payload))
        elif isinstance(event, Handshake):
            self.handshake = self.handshake or event
        elif isinstance(event, Metadata):
            self.metadata.update(event.values)
        elif isinstance(event, Error):
            self.error = event.message
        elif isinstance(event, Ping) and len(event.payload) == 8:
            self.round_trip = event.at - int.from_bytes(event.payload, "little") / 1e9
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def events(self) -> AsyncIterator[Event]:
        """What the server sends, in order, until the end.

        Raises:
            ServerError: the end was not normal.
        """
        while self._early:
            yield self._early.popleft()
        while (event := await self._next()) is not None:
            yield event
        if not self._closing and self.close_code not in refusals.NORMAL:
            raise refusals.closed(self.url, self.close_code or 1006, self.close_reason, self.error)

    @property
    def closed(self) -> bool:
        """Whether the connection is over."""
        return self._socket.close_code is not None

    @property
    def close_code(self) -> int | None:
        """Code of the close frame, the client's or the server's; 1006 if the connection was lost,
        None while it is open."""
        return self._socket.close_code

    @property
    def close_reason(self) -> str:
        """Reason of the close, a word such as `overloaded`; often empty."""
        return messages.printable(self._socket.close_reason or "")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the call; a second time does nothing."""
        if not self._closing:
            self._closing = True
            await self.send(self.wire.goodbye())
        await self._socket.close(code, reason)


@asynccontextmanager
async def connect(
    url: str,
    *,
    key: str | None = None,
    token: str | None = None,
    protocol: str = "kyutai",
    format: Format | None = None,  # noqa: A002
    params: ChatParams | Mapping[str, str] | None = None,
    decode: bool = True,
    timeout: float | None = None,
    on_queue: OnQueue | None = None,
) -> AsyncIterator[ChatClient]:
    """A call that has its slot; it is closed with the block.

    `timeout` is how many seconds the call may wait in the queue (None: for ever), `on_queue` is
    called with the position while it waits. The other arguments and the errors are those of
    :meth:`ChatClient.open` and :meth:`ChatClient.ready`.
    """
    chat = await ChatClient.open(
        url,
        key=key,
        token=token,
        protocol=protocol,
        format=format,
        params=params,
        decode=decode,
    )
    try:
        await chat.ready(timeout, on_queue)
        yield chat
    finally:
        await chat.close()

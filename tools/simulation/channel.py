"""A connection between a caller and a server, which can be slow, stand still, break, or break
without one side noticing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.refusal import Refused
from tools.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from tools.simulation.instance import Instance

#: Messages on their way to a client beyond which sending waits.
WINDOW = 16
#: Seconds after which a client that answers no ping counts as gone, and between two pings.
PING_TIMEOUT, PING_SECONDS = 20.0, 2.0
#: Seconds that a client has to take what it is told at the end.
CLOSE_SECONDS = 10.0
#: Seconds between two messages of one direction: timers of the same moment have no order.
TICK = 1e-7


class Client:
    """What the caller's end of a channel is told. Every method is called at most once but
    `message`.

    Attributes:
        active: the call has its slot.
    """

    active = False

    def accepted(self) -> None:
        """The connection is there."""

    def denied(self, refused: Refused) -> None:
        """The request was answered with a refusal."""

    def message(self, message: Message) -> None:
        """A message of the server."""

    def closed(self, code: int, reason: str) -> None:
        """The server closed."""

    def lost(self) -> None:
        """The connection broke."""


class SimulatedChannel(Channel):
    """Both ends.

    Attributes:
        latency: seconds that a message travels.
        gone_at: when the client went, if it has.
        accepted_at: when the server let it in.
        endings: how often the server ended it: by a denial, a close or a cut.
        counted: reasons for which the server counted a call that ended on it as ended.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        instance: Instance,
        client: Client,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        path: str,
        latency: float,
    ) -> None:
        self.headers, self.query, self.path = headers, query, path
        self.loop = loop
        self.instance = instance
        self.latency = latency
        self.gone_at: float | None = None
        self.accepted_at: float | None = None
        self.endings: list[tuple[str, int, str]] = []
        self.counted: list[str] = []
        self.began = loop.now
        #: Id of the caller's key.
        self.caller_key = ""
        #: Its messages are passed on to another server, which counts it.
        self.forwarded = False
        self._client = client
        self._accepted = self._closed = self._told_lost = False
        #: Nothing arrives any more, in either direction.
        self._broken = False
        #: Close code by which the server learns that the client is gone.
        self._gone: int | None = None
        self._inbox: deque[Message] = deque()
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._unread: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._sent: deque[float] = deque()
        self._reading = True
        self._silent_since: float | None = None
        self._still_until = 0.0
        self._there = self._back = loop.now

    # ---- the server's end ------------------------------------------------------------------

    @property
    def accepted(self) -> bool:
        return self._accepted

    @property
    def open(self) -> bool:
        return self._accepted and not self._closed and not self._broken

    async def accept(self, subprotocol: str | None = None) -> None:
        if self._gone is not None or self._broken:
            raise Disconnected
        self._accepted = True
        self.accepted_at = self.loop.now
        self.instance.world.checks.accepted(self)
        self._to_client(self._client.accepted)

    async def deny(self, refused: Refused) -> bool:
        if "origin" in self.headers and refused.code not in ("origin", "host"):
            return False
        self._end("denied", refused.status, refused.code)
        self._to_client(self._client.denied, refused)
        return True

    async def receive(self) -> Message:
        while not self._inbox:
            if self._gone is not None:
                raise Disconnected(self._gone)
            self._wanted = self.loop.create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        return self._inbox.popleft()

    async def send(self, message: Message) -> None:
        while len(self._sent) >= WINDOW and self._gone is None:
            self._room = self.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
        if self._gone is not None or self._closed:
            raise Disconnected
        self._sent.append(self.loop.now)
        self._to_client(self._deliver, message)

    async def close(self, code: int, reason: str) -> None:
        if self._gone is not None or self._closed:
            raise Disconnected
        self._end("closed", code, reason)
        self._to_client(self._close_client, code, reason)

    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        if self._gone is None and not self._closed:
            self._end("closed", code, reason)
            for message in messages:
                self._to_client(self._deliver, message)
            self._to_client(self._close_client, code, reason)
            self.loop.exactly_at(self.loop.now + CLOSE_SECONDS, self._cut)

    def abort(self) -> None:
        if not self._broken:
            if not self._closed and self._gone is None:
                self._end("cut", 1006, "")
            self._cut()

    @property
    def waits_for_slot(self) -> bool:
        """Whether the client was let in and has not been told since that the call begins."""
        return self._accepted and not self._client.active and self.gone_at is None

    def seconds_behind(self) -> float:
        """Since when a ping was not answered, which waits behind what was sent before it."""
        since = [at for at in (self._silent_since, next(iter(self._sent), None)) if at is not None]
        late = self.loop.now - min(since, default=self.loop.now) - PING_SECONDS / 2
        return max(0.0, late)

    def _end(self, how: str, code: int, reason: str) -> None:
        """The server ends the connection."""
        self._closed = True
        self.endings.append((how, code, reason))

    # ---- between ---------------------------------------------------------------------------

    def _to_client(self, callback: Callable[..., object], *args: Any) -> None:
        if not self._broken:
            self._back = max(self._back + TICK, self.loop.now + self.latency, self._still_until)
            self.loop.exactly_at(self._back, self._at_client, callback, args)

    def _at_client(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self._broken and self._silent_since is None:
            if self._reading:
                callback(*args)
            else:
                self._unread.append((callback, args))

    def _deliver(self, message: Message) -> None:
        self._taken()
        self._client.message(message)

    def _taken(self) -> None:
        if self._sent:
            self._sent.popleft()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _close_client(self, code: int, reason: str) -> None:
        if not self._told_lost:
            self._told_lost = True
            self._client.closed(code, reason)
            self._leave(code)

    def _leave(self, code: int) -> None:
        """The server learns that the client is gone."""
        if self._gone is None:
            self._gone = code
        if self.gone_at is None:
            self.gone_at = self.loop.now
        for waiting in (self._wanted, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _cut(self) -> None:
        """The connection breaks; both sides notice."""
        if self._broken:
            return
        self._broken = True
        self._leave(1006)
        if not self._told_lost:
            self._told_lost = True
            if self._silent_since is None:
                self.loop.exactly_at(self.loop.now + self.latency, self._client.lost)

    # ---- the client's end ------------------------------------------------------------------

    def give(self, message: Message) -> None:
        """The client sends something."""
        if self._silent_since is None and not self._broken and not self._told_lost:
            self._there = max(self._there + TICK, self.loop.now + self.latency, self._still_until)
            self.loop.exactly_at(self._there, self._arrive, message)

    def _arrive(self, message: Message) -> None:
        if self._gone is None:
            self._inbox.append(message)
            if self._wanted is not None and not self._wanted.done():
                self._wanted.set_result(None)

    def hang_up(self, code: int = 1000) -> None:
        """The client closes."""
        if not self._told_lost:
            self._told_lost = True
            self.gone_at = self.loop.now
            due = max(self._there + TICK, self.loop.now + self.latency, self._still_until)
            self.loop.exactly_at(due, self._leave, code)

    def cut(self) -> None:
        """The network breaks the connection, and both sides notice."""
        self._cut()

    def vanish(self) -> None:
        """The client is gone, and nobody tells the server."""
        if self._silent_since is None and not self._told_lost:
            self._silent_since = self.gone_at = self.loop.now
            self._told_lost = True
            self.loop.exactly_at(self.loop.now + PING_TIMEOUT + PING_SECONDS, self._cut)

    def stand_still(self, seconds: float) -> None:
        """Nothing travels for a while; then all of it arrives."""
        self._still_until = max(self._still_until, self.loop.now + seconds)

    def read(self, reading: bool) -> None:
        """Whether the client takes what comes."""
        self._reading = reading
        while self._reading and self._unread and not self._broken:
            callback, args = self._unread.popleft()
            callback(*args)

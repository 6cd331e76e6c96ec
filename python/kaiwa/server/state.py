"""What the parts of a running server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaiwa.engine import Engine
from kaiwa.server.access import Access, Caller
from kaiwa.server.limits import Lease
from kaiwa.server.metrics import Metrics
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import forward, replicas
from kaiwa.server.shared.redis_client import SharedStateUnavailable
from kaiwa.session import AsyncSession

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from kaiwa.server.connection import Connection
    from kaiwa.server.protocols.kyutai import ChatQuery

#: Seconds that a connection may take to notice that it was broken.
TAKE_OVER = 2.0
#: Seconds without a sign of life after which the engine counts as stuck.
STUCK = 5.0


@dataclass(eq=False)
class Held:
    """A call whose connection was lost: its session keeps its slot, and its caller's lease."""

    session: AsyncSession
    lease: Lease
    caller: Caller
    #: What it was begun with, and when.
    query: ChatQuery
    began: float
    protocol: str


class ServerState:
    """One server: settings, access, the engine once it is loaded, and live connections."""

    def __init__(
        self,
        settings: ServerSettings,
        load: Callable[[ServerSettings], Engine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        signer = replicas.signer(settings)
        self.access = Access(settings, tokens=replicas.tokens(settings, signer))
        self.clock = clock
        self.began = clock()
        self.load = load
        self.engine: Engine | None = None
        self.draining = False
        self.drained = asyncio.Event()
        #: Why loading failed.
        self.failure: BaseException | None = None
        self.connections: set[Connection] = set()
        self.held: dict[str, Held] = {}
        #: Connections of calls that can be taken up again, by their resume tokens.
        self.resumable: dict[str, Connection] = {}
        #: Where the main server listens; known once it does.
        self.port = settings.port
        self.metrics = Metrics(self)
        #: What all servers know; None if there is only this one.
        self.shared = replicas.shared_state(settings, lambda: self.port)
        self.admission = replicas.admission(
            settings, self.access, signer, self.shared, self.metrics
        )

    # ---- health ----------------------------------------------------------------------------

    @property
    def stuck(self) -> bool:
        """Whether the engine has given no sign of life for too long."""
        return self.engine is not None and self.engine.readiness.silent_seconds > STUCK

    @property
    def readiness(self) -> str:
        """`ready`, `starting`, `full`, `draining`, `overloaded` or `stuck`."""
        if self.draining:
            return "draining"
        if self.engine is None:
            return "starting"
        if self.stuck:
            return "stuck"
        return self.engine.readiness.state

    def admit(self) -> Engine:
        """The engine, if a caller has a chance of a slot.

        Raises:
            Refused: 503.
        """
        engine = self.engine
        state = self.readiness
        if engine is None or state == "starting":
            raise Refused(503, "starting", "the model is still loading; try again shortly", 5)
        if state in ("draining", "closed"):
            raise Refused(503, "draining", "the server is about to stop; try again shortly", 5)
        if state == "stuck":
            raise Refused(503, "stuck", "the server does not answer at present; try again", 10)
        if state in ("full", "overloaded") and engine.readiness.queue >= self.settings.queue:
            message = {
                "full": "all conversations are taken; try again shortly",
                "overloaded": "the server has no time for another conversation; try again shortly",
            }[state]
            raise Refused(503, state, message, 5)
        return engine

    # ---- held calls ------------------------------------------------------------------------

    def hold(self, held: Held) -> bool:
        """Keeps a call whose connection was lost; false if it is over."""
        engine = self.engine
        if engine is None or self.draining or not self.settings.resume_seconds:
            return False
        token = engine.hold(held.session, self.settings.resume_seconds)
        if token is None:
            return False
        self.held[token] = held
        return True

    def held_of(self, token: str, caller: Caller) -> Held | None:
        """The held call of a token, for its own caller."""
        held = self.held.get(token)
        if held is None or self.draining or held.caller.key_id != caller.key_id:
            return None
        return held

    def take(self, token: str) -> None:
        """A held call is held no more."""
        del self.held[token]
        self._retract(token)

    async def find_held(self, token: str, caller: Caller) -> Held | None:
        """The same. A call whose connection still seems to be there loses it: its client, which
        knows better, has come back by another way."""
        connection = self.resumable.get(token)
        if connection is not None and connection.caller is not None:
            if self.draining or connection.caller.key_id != caller.key_id:
                return None
            connection.drop()
            until = self.clock() + TAKE_OVER
            while self.resumable.get(token) is connection and self.clock() < until:
                await asyncio.sleep(0.005)
        return self.held_of(token, caller)

    def offer(self, connection: Connection) -> None:
        """The call of a connection can be taken up again, here or through another server."""
        if connection.session is not None and self.settings.resume_seconds:
            token = connection.session.resume_token
            self.resumable[token] = connection
            if self.shared is not None:
                self.shared.add_call(token)

    def withdraw(self, connection: Connection) -> None:
        """A connection is over; its call may be held."""
        for token in [t for t, c in self.resumable.items() if c is connection]:
            del self.resumable[token]
            self._retract(token)

    def _retract(self, token: str) -> None:
        """Tells other servers that a call is over, if it is."""
        over = token not in self.resumable and token not in self.held
        if over and self.shared is not None:
            self.shared.remove_call(token)

    async def reach_owner(
        self, token: str | None, caller: Caller, query: Mapping[str, str]
    ) -> ClientConnection | None:
        """A connection to the other server that has the call of a resume token; None if none has.

        Raises:
            Refused: the key of the caller has no more room there, or was revoked.
        """
        if token is None or self.shared is None or caller.vouched or self.draining:
            return None
        if token in self.held or token in self.resumable:
            return None
        try:
            address = await self.shared.owner(token)
        except SharedStateUnavailable:
            return None
        if address is None:
            return None
        return await forward.reach(address, query, self.admission.vouch(caller, token))

    def sweep_held(self) -> None:
        """Lets go of held calls that are over: nobody took them up again, or they were ended."""
        for held in self.held.values():
            if self.access.revoked(held.caller):
                held.session.ask_end("revoked")
        for token, held in [(t, h) for t, h in self.held.items() if h.session.ended]:
            self.take(token)
            self.let_go(held)

    def let_go(self, held: Held) -> None:
        """A held call is over."""
        reason = held.session.why_ended() or "lost"
        held.session.close()
        held.lease.release()
        self.metrics.ended.labels(held.protocol, reason).inc()
        self.metrics.duration.labels(held.protocol).observe(self.clock() - held.began)

    # ---- drain -----------------------------------------------------------------------------

    def start_drain(self) -> None:
        """Takes nobody new; calls go on."""
        self.draining = True
        if self.engine is not None:
            self.engine.drain()

    @property
    def calls(self) -> int:
        """Connections that have, or wait for, a slot."""
        return len(self.connections)

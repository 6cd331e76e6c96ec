"""Calls whose connection was lost, which wait for their clients; and those that would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kaiwa.server.access import Access
from kaiwa.server.audit import AuditLog
from kaiwa.server.call import listing
from kaiwa.server.call.live import LiveCall
from kaiwa.server.caller import Caller
from kaiwa.server.limits import Lease
from kaiwa.server.metrics import Metrics
from kaiwa.server.protocols.base import CallRequest
from kaiwa.server.shared.state import SharedState
from kaiwa.server.state import ServerState
from kaiwa.session import AsyncSession

#: Seconds that a call may take to notice that its connection was broken on purpose.
NOTICE_SECONDS = 2.0


@dataclass(eq=False)
class HeldCall:
    """A call whose connection was lost: its session keeps its slot, its caller keeps the lease."""

    session: AsyncSession
    lease: Lease
    caller: Caller
    #: What was asked for when the call began, and when that was.
    request: CallRequest
    began: float
    protocol: str

    def listing(self) -> dict[str, Any]:
        """Its row in the list of sessions; empty if it is over."""
        return listing.row(self.session, self.caller, self.protocol)


class HeldCalls:
    """Calls by their resume tokens. Not for several threads at once."""

    def __init__(
        self,
        state: ServerState,
        access: Access,
        metrics: Metrics,
        shared: SharedState | None,
        seconds: float,
        audit: AuditLog,
    ) -> None:
        """No calls yet.

        Args:
            state: of the server.
            access: knows which keys were revoked.
            metrics: where calls are counted that end while they are held.
            shared: tells other servers which calls are here; None if there is only this one.
            seconds: how long a call is held; 0 is not at all.
            audit: where their ends are written.
        """
        self._audit = audit
        self._state = state
        self._access = access
        self._metrics = metrics
        self._shared = shared
        self.seconds = seconds
        self._held: dict[str, HeldCall] = {}
        #: Calls with a connection that can be resumed if they lose it.
        self._resumable: dict[str, LiveCall] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldCall]:
        return iter(list(self._held.values()))

    def __contains__(self, token: str) -> bool:
        """Whether the call of a token is here, held or with a connection."""
        return token in self._held or token in self._resumable

    def get(self, token: str) -> HeldCall | None:
        """The held call of a token."""
        return self._held.get(token)

    # ---- calls with a connection -----------------------------------------------------------

    def register_resumable(self, call: LiveCall) -> None:
        """A call can be resumed from now on, here or through another server."""
        if call.session is not None and self.seconds:
            token = call.session.resume_token
            self._resumable[token] = call
            if self._shared is not None:
                self._shared.add_call(token)

    def unregister_resumable(self, call: LiveCall) -> None:
        """The connection of a call is over; the call itself may be held."""
        for token in [t for t, c in self._resumable.items() if c is call]:
            del self._resumable[token]
            self._forget(token)

    # ---- held calls ------------------------------------------------------------------------

    def hold(self, call: HeldCall) -> bool:
        """Holds a call whose connection was lost; False if it is over or nothing is held."""
        engine = self._state.engine
        if engine is None or self._state.draining or not self.seconds:
            return False
        token = engine.hold(call.session, self.seconds)
        if token is None:
            return False
        self._held[token] = call
        return True

    async def find(self, token: str, caller: Caller) -> HeldCall | None:
        """The held call of a token, if it is this caller's.

        A client may know that its connection is lost before this server does, and come back while
        the call still seems to be connected. Then the old connection is broken, and the call
        waited for until it is held.
        """
        call = self._resumable.get(token)
        if call is not None and call.caller is not None:
            if self._state.draining or call.caller.key_id != caller.key_id:
                return None
            call.drop()
            until = self._state.clock() + NOTICE_SECONDS
            while self._resumable.get(token) is call and self._state.clock() < until:
                await asyncio.sleep(0.005)
        held = self._held.get(token)
        if held is None or self._state.draining or held.caller.key_id != caller.key_id:
            return None
        return held

    def remove(self, token: str) -> None:
        """A call is held no more: it was taken up again, or is over."""
        del self._held[token]
        self._forget(token)

    def end(self, held: HeldCall) -> None:
        """Ends a call that was removed and is not taken up again."""
        reason = held.session.why_ended() or "lost"
        held.session.close()
        held.lease.release()
        seconds = self._state.clock() - held.began
        self._metrics.call_ended(held.protocol, reason, seconds)
        self._audit.write(
            "end",
            session=held.session.id,
            key=held.caller.name,
            key_id=held.caller.key_id,
            protocol=held.protocol,
            seconds=round(seconds, 3),
            reason=reason,
        )

    def sweep(self) -> None:
        """Ends held calls that nobody took up again in time, that an operator ended, or whose key
        was revoked."""
        for held in self._held.values():
            if self._access.revoked(held.caller):
                held.session.ask_end("revoked")
        for token, held in [(t, h) for t, h in self._held.items() if h.session.ended]:
            self.remove(token)
            self.end(held)

    def _forget(self, token: str) -> None:
        """Tells other servers that the call of a token is not here any more, if that is so."""
        if token not in self and self._shared is not None:
            self._shared.remove_call(token)

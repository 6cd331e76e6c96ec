"""Letting a call in: who calls, a held call or a new slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kaiwa.engine import Engine, Task
from kaiwa.errors import ClosedError, InputError
from kaiwa.server.call.context import CallContext
from kaiwa.server.caller import Caller
from kaiwa.server.channel import Channel, Message
from kaiwa.server.limits import Lease
from kaiwa.server.protocols.base import CallRequest, Entry
from kaiwa.server.refusal import Refused
from kaiwa.session import AsyncSession


class CallEntry(Entry):
    """What a codec sees of a call that is being let in.

    Attributes:
        caller: who calls, once the codec has asked.
    """

    def __init__(
        self, context: CallContext, channel: Channel, protocol: str, task: Task = "duplex"
    ) -> None:
        self._context = context
        self._channel = channel
        self._protocol = protocol
        self._task = task
        self.headers = channel.headers
        self.query = channel.query
        self.model = context.state.model
        self.caller: Caller | None = None

    @property
    def preset(self) -> Mapping[str, Any]:
        """With what the session is to begin."""
        return {} if self.caller is None else self.caller.session

    async def authorize(
        self,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """Finds out who calls."""
        context = self._context
        self.caller = await context.admission.authorize(
            self.headers if headers is None else headers,
            self.query if query is None else query,
            context.now(),
            protocol=self._protocol,
        )
        context.state.check_task(self._task)

    def check_page(self) -> None:
        """Refuses web pages that have no business here."""
        self._context.access.check_page(self.headers)

    def check_room(self) -> None:
        """Refuses a caller who has no chance of a slot."""
        self._context.state.admit()

    async def accept(self, subprotocol: str | None = None) -> None:
        """Lets the client in before its request is known."""
        await self._channel.accept(subprotocol)

    async def receive(self) -> Message:
        """A message of the client."""
        return await self._channel.receive()

    async def send(self, message: Message) -> None:
        """A message to the client."""
        await self._channel.send(message)


@dataclass
class Admitted:
    """A call that was let in."""

    session: AsyncSession
    lease: Lease
    #: What is in force.
    request: CallRequest
    #: When it got its slot; 0 if it has none yet.
    began: float = 0.0
    resumed: bool = False


async def admit(
    context: CallContext, caller: Caller, request: CallRequest, task: Task = "duplex"
) -> Admitted:
    """Takes a held call up again or asks for a new slot; `task` is what the model has to do.

    Raises:
        Refused: 401, 404, 429, 503.
    """
    resumed = await _resume(context, caller, request)
    if resumed is not None:
        return resumed
    if caller.vouched:
        raise Refused(404, "not_held", "this server does not hold this call")
    if request.resume:
        context.metrics.resumed.labels("nowhere").inc()
    # The model may have been loading when the caller was let in.
    context.state.check_task(task)
    lease = await context.admission.enter(caller, context.now())
    try:
        session = _open_session(context, context.state.admit(), caller, request)
    except BaseException:
        lease.release()
        raise
    return Admitted(session, lease, request)


async def _resume(context: CallContext, caller: Caller, request: CallRequest) -> Admitted | None:
    """Takes a held call up again; None if there is none."""
    token, now = request.resume, context.now()
    held = await context.held.find(token, caller) if token is not None else None
    if held is None or token is None:
        return None
    lease = await context.admission.enter(caller, now, held=held.lease)
    if context.held.get(token) is not held:
        # It ended, or another connection took it up, while the limits were asked for.
        if lease is not held.lease:
            lease.release()
        return None
    context.held.remove(token)
    engine = context.state.engine
    session = engine.resume(token) if engine is not None else None
    if session is None:
        context.held.end(held)
        if lease is not held.lease:
            lease.release()
        return None
    context.metrics.resumed.labels("here").inc()
    # Audio goes on in the form in which the call began.
    in_force = replace(held.request, resumable=request.resumable)
    return Admitted(session, lease, in_force, held.began, resumed=True)


def _open_session(
    context: CallContext, engine: Engine, caller: Caller, request: CallRequest
) -> AsyncSession:
    """Asks the engine for a slot; the session's first events tell of it.

    Raises:
        Refused: 503.
    """
    settings = context.settings
    try:
        session = engine.session(
            seed=settings.seed if request.seed is None else request.seed,
            temp=settings.temp if request.temp is None else request.temp,
            temp_text=settings.temp_text if request.temp_text is None else request.temp_text,
            top_k=settings.top_k if request.top_k is None else request.top_k,
            top_k_text=settings.top_k_text if request.top_k_text is None else request.top_k_text,
            pace="realtime" if request.realtime else "none",
            clock="server" if request.server_clock else "input",
            transport=request.transport,
            max_seconds=caller.max_seconds,
            max_frames=request.max_frames,
            idle_seconds=settings.idle_seconds or None,
            wait=settings.queue_seconds,
        ).open()
        if request.paused:
            session.pause()
        return session
    except (ClosedError, InputError) as error:
        raise Refused(503, "error", str(error), 5) from None

"""The life of one call, whatever its protocol: let in, audio both ways, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from kaiwa.errors import ClosedError, InputError
from kaiwa.server.call import forwarding, listing, slow_client
from kaiwa.server.call.context import CallContext
from kaiwa.server.call.entry import Admitted, CallEntry, admit
from kaiwa.server.call.held import HeldCall
from kaiwa.server.call.info import call_info
from kaiwa.server.call.live import LiveCall
from kaiwa.server.call.slow_client import Action
from kaiwa.server.caller import Caller
from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.frame_budget import FrameBudget
from kaiwa.server.protocols.base import (
    Audio,
    CallRequest,
    ClearInput,
    Finish,
    HangUp,
    Input,
    Pause,
    Reply,
    WireProtocol,
)
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.forward import Forward
from kaiwa.server.tracing import CallSpan
from kaiwa.session import AsyncSession, EndEvent, StateEvent, StepEvent, by_frame
from kaiwa.words import WordEndEvent, WordEvent

log = logging.getLogger("kaiwa.server")

#: Seconds without a message to the client after which its codec may send a keepalive.
KEEPALIVE = 4.0
#: Messages without a meaning after which a client is sent away.
GARBAGE = 100
#: Closes of a connection that the person who calls may not have meant.
_LOST = (1006, 1011, 1012)
#: Seconds to wait for the reader to learn how a connection ended that broke while sending.
_CLOSE_SECONDS = 1.0


class Call(LiveCall):
    """One call over one connection.

    A call that loses its connection is held without this object (`HeldCall`); the connection that
    takes it up again has a `Call` of its own.
    """

    def __init__(self, context: CallContext, protocol: WireProtocol, channel: Channel) -> None:
        self.protocol = protocol.name
        self.caller: Caller | None = None
        self.session: AsyncSession | None = None
        self._context = context
        self._task_wanted = protocol.task
        self._codec = protocol.codec()
        self._channel = channel
        self._traffic = context.metrics.traffic(protocol.name)
        self._admitted: Admitted | None = None
        #: What is in force.
        self._request = CallRequest()
        self._active = False
        self._began = 0.0
        self._forward: Forward | None = None
        #: Close code of the client; None while it is there.
        self._gone: int | None = None
        #: The close was sent; the client was given up because it takes nothing.
        self._closed = self._stuck = False
        self._garbage = 0
        self._span = CallSpan()
        #: Messages that bring no sound. The connection's own budget lets large frames come much
        #: faster, because sound is limited by what it holds.
        self._soundless = FrameBudget(context.now())
        #: Keeps the messages of one event, or of one answer, together.
        self._sending = asyncio.Lock()
        self._sending_since: float | None = None
        self._sent_at = context.now()
        #: Cleared while nothing may be sent, because the client is behind.
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._task: asyncio.Task[Any] | None = None
        self._posting: set[asyncio.Task[None]] = set()

    # ---- letting in ------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole life; never raises for what a client does."""
        with self._context.tracing.call(self._channel.headers) as self._span:
            await self._run()
            caller = self.caller
            self._span.set(protocol=self.protocol, key=caller.name if caller else None)

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        entry = CallEntry(self._context, self._channel, self.protocol, self._task_wanted)
        try:
            try:
                request = await self._codec.open(entry)
            finally:
                self._set_label()
            caller = self.caller = entry.caller
            assert caller is not None, "the codec did not ask who calls"
            self._forward = await forwarding.reach_owner(
                self._context, self._channel, caller, request
            )
            if self._forward is not None:
                await self._pass_on(self._forward)
            else:
                self._admitted = await admit(self._context, caller, request, self._task_wanted)
                await self._begin(self._admitted)
                await self._converse(self._admitted.session)
        except Refused as refused:
            await self._refuse(refused)
        except Disconnected as gone:
            # It went away before it was let in.
            self._gone = gone.code
        except asyncio.CancelledError:
            # The watch gave the client up, or the server stops.
            log.info("connection given up", extra=self._facts())
        except Exception:
            log.exception("a call failed", extra=self._facts())
        finally:
            self._leave()

    def _set_label(self) -> None:
        """The codec knows by now in which dialect of its protocol the call is."""
        if self._codec.label is not None:
            self.protocol = self._codec.label
            self._traffic = self._context.metrics.traffic(self.protocol)

    async def _pass_on(self, forward: Forward) -> None:
        """Passes the messages of a call on that another server holds, until its end."""
        self._context.metrics.resumed.labels("elsewhere").inc()
        self._context.live.add(self)
        try:
            await self._accept()
            log.info("call passed on", extra=self._facts())
            end = await forward.run()
            if end.code == 0:
                self._gone = 1006
                return
            if end.message:
                for message in self._codec.end(end.reason, end.message).messages:
                    await self._channel.send(message)
            await self._channel.close(end.code, end.reason)
        finally:
            forward.abort()

    async def _begin(self, admitted: Admitted) -> None:
        """The call has a slot or a place in the queue."""
        self.session, self._began = admitted.session, admitted.began
        self._request = admitted.request
        self._codec.admitted(admitted.request)
        self._span.event("admitted")
        await self._accept()
        self._context.live.add(self)

    async def _accept(self) -> None:
        if not self._channel.accepted:
            await self._channel.accept(self._codec.subprotocol)

    async def _refuse(self, refused: Refused) -> None:
        """Tells a client why it is not let in: by the answer to its request if it can read that,
        else by messages and a close."""
        self._context.metrics.call_refused(self.protocol, refused)
        facts = {"status": refused.status, "reason": refused.code}
        self._span.set(refused=refused.code)
        more = self._context.seldom.due(f"{self.protocol} {refused.code}")
        if more is not None:
            log.info("call refused" + more, extra={"protocol": self.protocol, **facts})
        if self.caller is not None:
            self._audit("refused", **facts)
        with contextlib.suppress(Exception):
            if not self._channel.accepted:
                if await self._channel.deny(refused):
                    return
                await self._accept()
            ending = self._codec.refuse(refused)
            for message in ending.messages:
                await self._channel.send(message)
            await self._channel.close(ending.code, ending.reason)

    # ---- the conversation ------------------------------------------------------------------

    async def _converse(self, session: AsyncSession) -> None:
        """Two tasks, until one ends: one reads what the client sends, one sends what the engine
        gives."""
        reader = asyncio.create_task(self._read(session))
        writer = asyncio.create_task(self._write(session))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not (self._closed or reader.done()):
                await asyncio.wait({reader}, timeout=_CLOSE_SECONDS)
        finally:
            reader.cancel()
            writer.cancel()
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, Disconnected):
                raise end
        if not self._closed:
            self._gone = self._gone or 1006
            if not self._hold(session):
                session.ask_end("client")

    async def _write(self, session: AsyncSession) -> None:
        """Sends what the engine gives until its end."""
        while True:
            await self._may_send.wait()
            event = await session.next()
            if event is None:
                return
            if isinstance(event, EndEvent):
                await self._finish(event)
            elif isinstance(event, StateEvent) and event.state == "active" and not self._active:
                await self._start(session)
            elif isinstance(event, StepEvent | WordEvent | WordEndEvent):
                for frame in by_frame([event, *session.fetched_transcript()]):
                    await self._send(self._codec.transcribed(frame))
                    # Of a file that is transcribed fast many come at once: others have their turn,
                    # and that the client has gone is noticed.
                    await asyncio.sleep(0)
            else:
                await self._send(self._codec.encode_all([event, *session.fetched()]))

    async def _start(self, session: AsyncSession) -> None:
        """The call has its slot, now or again."""
        context, admitted = self._context, self._admitted
        assert admitted is not None
        assert self.caller is not None
        self._active = True
        if not admitted.resumed:
            self._began = context.now()
            context.metrics.started.labels(self.protocol).inc()
            self._audit("begin", model=context.state.model)
        self._span.set(session=session.id, model=context.state.model)
        self._span.event("resumed" if admitted.resumed else "begins")
        log.info("call begins", extra=self._facts())
        if self._request.resumable:
            context.held.register_resumable(self)
        await self._send(
            self._codec.started(call_info(context, self.protocol, self.caller, admitted))
        )

    async def _finish(self, end: EndEvent) -> None:
        """Says why the call ends, and closes."""
        if self._admitted is not None:
            # Before the client is told: it may come back at once.
            self._admitted.lease.release()
        message = "server restarting" if end.reason == "drain" else end.message
        ending = self._codec.end(end.reason, message)
        await self._send(ending.messages)
        await self._channel.close(ending.code, ending.reason)
        self._closed = True

    async def _send(self, messages: Iterable[Message]) -> None:
        """Sends messages one after the other, with none of another event between them."""
        context = self._context
        async with self._sending:
            for message in messages:
                self._sending_since = context.now()
                await self._channel.send(message)
                self._sending_since = None
                self._sent_at = context.now()
                self._traffic.sent(message)

    async def _read(self, session: AsyncSession) -> None:
        """Takes what the client sends until it goes."""
        while True:
            try:
                message = await self._channel.receive()
            except Disconnected as gone:
                self._gone = gone.code
                if gone.flooded:
                    session.ask_end("garbage", "far more messages than a conversation needs")
                return
            self._traffic.received(message)
            sound = False
            try:
                for given in self._codec.decode(message):
                    sound = sound or isinstance(given, Audio)
                    await self._handle(session, given)
            except (ClosedError, InputError):
                # The session has just ended; its last event says why.
                continue
            finally:
                if not sound:
                    self._count_soundless()
            self._count_garbage(session)

    async def _handle(self, session: AsyncSession, given: Input) -> None:
        """Does what the client wants."""
        if isinstance(given, Audio):
            if self._task_wanted == "duplex" and not (self._active or self._request.realtime):
                # What a caller says before there is a slot would be delay for ever. The engine
                # drops it of a call that is paced, and keeps it of one that is transcribed.
                return
            session.push(given.data)
            if not self._request.realtime:
                await session.room()
        elif isinstance(given, Reply):
            await self._send(given.messages)
        elif isinstance(given, Pause):
            if given.paused:
                session.pause()
            else:
                session.unpause()
        elif isinstance(given, ClearInput):
            session.clear_input()
        elif isinstance(given, Finish):
            session.finish()
        elif isinstance(given, HangUp):
            session.ask_end("client")
        else:
            self._garbage += 1

    def _count_soundless(self) -> None:
        """Cuts off a client that sends far more than a conversation needs."""
        if not self._soundless.spend(1, 0, self._context.now()):
            self._channel.cut_flood()

    def _count_garbage(self, session: AsyncSession) -> None:
        """Ends the call of a client that sends nothing but garbage."""
        if self._garbage + session.bad_messages >= GARBAGE:
            session.ask_end("garbage", "too many messages that mean nothing; see docs/server.md")

    # ---- looked after from outside ---------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether it has a slot here."""
        return self._active and self.session is not None

    @property
    def _had_slot(self) -> bool:
        """Whether it was counted as begun, here or on a connection before this one. Its client then
        knows the token by which it is taken up again."""
        return self._active or (self._admitted is not None and self._admitted.resumed)

    @property
    def forwarded(self) -> bool:
        """Whether another server holds it."""
        return self._forward is not None

    def watch(self, now: float) -> None:
        """Keepalive, revoked keys, clients that do not read."""
        session, caller = self.session, self.caller
        if self._forward is not None:
            since = self._forward.sending_since
            if since is not None and now - since > slow_client.STUCK_CLIENT:
                self.drop()
        if session is None or caller is None:
            return
        if self._context.access.revoked(caller):
            session.ask_end(
                "revoked", "the key of this call was revoked or has expired; ask for another"
            )
        # Bytes that hold no audio are found out after they were taken.
        self._count_garbage(session)
        self._watch_line(session, now)
        if self._sending_since is None and now - self._sent_at > KEEPALIVE:
            message = self._codec.keepalive(started=self._active)
            if message is not None:
                self._sent_at = now
                self._post((message,))

    def _watch_line(self, session: AsyncSession, now: float) -> None:
        """Does what the policy for slow clients says."""
        behind = 0.0 if self._sending_since is None else now - self._sending_since
        if self._request.realtime:
            # The answers to a file may wait: nobody hears them late.
            behind = max(behind, self._channel.seconds_behind())
        action = slow_client.action(behind, resumable=self._request.resumable and self._active)
        if action is Action.DROP:
            self.drop()
        elif action is Action.END and self._task is not None and not self._stuck:
            self._stuck = True
            self._task.cancel()
        if action is Action.SEND or session.ended:
            self._may_send.set()
        else:
            self._may_send.clear()

    def _post(self, messages: Iterable[Message]) -> None:
        """Sends messages that answer nothing, without waiting for them to be taken."""
        task = asyncio.get_running_loop().create_task(self._send_unasked(messages))
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def _send_unasked(self, messages: Iterable[Message]) -> None:
        with contextlib.suppress(Disconnected):
            await self._send(messages)

    def notify_drain(self, seconds: float) -> None:
        """Tells the client that the server stops."""
        if self._active and self.session is not None:
            self._post(self._codec.notice(seconds))

    def drain(self) -> None:
        """Asks for the end, since the server stops."""
        if self.session is not None:
            self.session.ask_end("drain", "server restarting")
        elif self._forward is not None:
            self._forward.drain()

    def drop(self) -> None:
        """Breaks the connection as if the network had done it."""
        self._channel.abort()

    def listing(self) -> dict[str, Any]:
        """Its row in the list of sessions."""
        return listing.row(self.session, self.caller, self.protocol)

    # ---- the end ---------------------------------------------------------------------------

    def _hold(self, session: AsyncSession) -> bool:
        """Keeps the slot if the connection was lost and the client can come back."""
        admitted, caller = self._admitted, self.caller
        if not (self._request.resumable and self._gone in _LOST and admitted and caller):
            return False
        if not self._had_slot:
            return False
        held = HeldCall(session, admitted.lease, caller, self._request, self._began, self.protocol)
        if not self._context.held.hold(held):
            return False
        self._span.event("held")
        log.info("call held", extra=self._facts())
        self._admitted = self.session = None
        return True

    def _leave(self) -> None:
        """Frees what the call had."""
        self._context.live.remove(self)
        self._context.held.unregister_resumable(self)
        if self._admitted is not None:
            self._end_session(self._admitted)
        # A task that was cancelled leaves the connection open.
        if self._channel.open and self._gone is None:
            if self._stuck:
                ending = self._codec.end("slow_consumer", slow_client.TOO_SLOW)
                self._channel.close_at_once(ending.messages, ending.code, ending.reason)
            else:
                self.drop()

    def _end_session(self, admitted: Admitted) -> None:
        """The call is over and not held."""
        metrics, session = self._context.metrics, admitted.session
        other = "slow_consumer" if self._stuck else "client" if self._gone else "error"
        reason = session.end_reason or other
        session.close()
        if self._had_slot:
            seconds = self._context.now() - self._began
            metrics.call_ended(self.protocol, reason, seconds)
            self._audit("end", seconds=round(seconds, 3), reason=reason)
        elif reason in ("full", "overloaded", "draining"):
            metrics.rejected.labels(self.protocol, reason).inc()
            self._audit("refused", reason=reason)
        self._span.set(end_reason=reason)
        log.info("call ends", extra={**self._facts(), "reason": reason})
        admitted.lease.release()

    def _audit(self, event: str, **facts: Any) -> None:
        """A line of the audit log."""
        session, caller = self.session, self.caller
        self._context.audit.write(
            event,
            session=session.id if session is not None else None,
            key=caller.name if caller is not None else None,
            key_id=caller.key_id if caller is not None else None,
            protocol=self.protocol,
            **facts,
        )

    def _facts(self) -> dict[str, Any]:
        """For the log."""
        facts: dict[str, Any] = {"protocol": self.protocol}
        if self.session is not None:
            facts["session"] = self.session.id
        if self.caller is not None and self.caller.name:
            facts["key_name"] = self.caller.name
        return facts

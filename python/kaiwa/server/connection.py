"""The life of one call on `/api/chat`: upgrade, slot, audio both ways, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from kaiwa.errors import ClosedError, InputError
from kaiwa.server.access import Caller
from kaiwa.server.limits import Lease
from kaiwa.server.protocols import kyutai
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.forward import Forward
from kaiwa.server.state import Held, ServerState
from kaiwa.session import AsyncSession, AudioEvent, EndEvent, Event, StateEvent, TextEvent

log = logging.getLogger("kaiwa.server")

PROTOCOL = "kyutai"
#: Seconds without a message to the client after which it gets a ping.
KEEPALIVE = 4.0
#: Messages that mean nothing after which a client is sent away.
GARBAGE = 100
#: Seconds that a client may owe the answer to a ping, or that a message to it may take, until
#: nothing more is put on its line (what is too old is dropped before it is encoded) ...
SLOW_CLIENT = 1.0
#: ... until a call that can be taken up again counts as lost ...
LOST_CLIENT = 5.0
#: ... and until any other is given up.
STUCK_CLIENT = 8.0
TOO_SLOW = "audio was not taken for too long; read faster or use a better connection"

#: Close codes by the reason of a session's end.
_CLOSE = {
    "client": 1000,
    "finished": 1000,
    "expired": 1000,
    "idle": 1000,
    "closed": 1000,
    "input_too_fast": 1008,
    "slow_consumer": 1008,
    "revoked": 1008,
    "garbage": 1003,
    "error": 1011,
    "drain": 1012,
    "draining": 1012,
    "full": 1013,
    "overloaded": 1013,
    "shed": 1013,
    "lost": 1013,
}
#: Ends that the client knows of itself.
_SILENT = ("client", "finished")
#: Closes of a connection that a person may not have meant.
_LOST = (1006, 1011, 1012)
#: Seconds to learn how a connection ended that broke while something was sent.
_LAST_WORDS = 1.0
#: What a broken socket raises.
_BROKEN = (WebSocketDisconnect, RuntimeError, OSError)


class Connection:
    """One websocket."""

    def __init__(self, state: ServerState, socket: WebSocket) -> None:
        self._state = state
        self._socket = socket
        self.session: AsyncSession | None = None
        self.caller: Caller | None = None
        self.query = kyutai.ChatQuery()
        self._lease: Lease | None = None
        self._active = False
        self._began = 0.0
        self._sent_at = state.clock()
        self._sending_since: float | None = None
        self._task: asyncio.Task[Any] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._garbage = 0
        #: The call is held by another server, and passes through this one.
        self.forward: Forward | None = None
        #: Code of the client's close; 1006: lost.
        self._gone: int | None = None
        self._count_out = state.metrics.messages.labels(PROTOCOL, "out")
        self._size_out = state.metrics.bytes.labels(PROTOCOL, "out")
        self._closed = self._stuck = False
        #: Cleared while the client's line is full.
        self._flow = asyncio.Event()
        self._flow.set()

    # ---- letting in ------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole life; never raises for what a client does."""
        self._task = asyncio.current_task()
        try:
            extensions = self._socket.scope.get("extensions", {})
            extensions["kaiwa.ping_rtt"] = self._state.metrics.ping_rtt.observe
            await self._identify()
            if not await self._pass_on():
                resumed = await self._enter()
                await self._socket.accept()
                self._state.connections.add(self)
                await self._converse(resumed)
        except Refused as refused:
            await self._refuse(refused)
        except _BROKEN:
            # It went away before it was let in.
            self._gone = 1006
        except asyncio.CancelledError:
            # The watch gave the client up, or the server stops.
            log.info("connection given up", extra=self._facts())
        except Exception:
            log.exception("a call failed", extra=self._facts())
        finally:
            self._leave()

    async def _identify(self) -> None:
        """Origin, key, and what is asked for."""
        state, socket = self._state, self._socket
        self.caller = await state.admission.authorize(
            socket.headers, socket.query_params, state.clock(), protocol=PROTOCOL
        )
        self.query = kyutai.parse_query(socket.query_params)

    async def _pass_on(self) -> bool:
        """Passes the call on to the server that holds it, to the end; whether there is one."""
        state, caller = self._state, self.caller
        assert caller is not None
        upstream = await state.reach_owner(self.query.resume, caller, self._socket.query_params)
        if upstream is None:
            return False
        state.metrics.resumed.labels("elsewhere").inc()
        self.forward = Forward(self._socket, upstream, state.clock)
        state.connections.add(self)
        try:
            await self._socket.accept()
            log.info("call passed on", extra=self._facts())
            end = await self.forward.run()
            if end.code == 0:
                self._gone = 1006
                return True
            if end.message:
                await self._socket.send_bytes(kyutai.error(end.message))
            await self._socket.close(end.code, end.reason)
        finally:
            upstream.transport.abort()
        return True

    async def _enter(self) -> bool:
        """Limits, room, slot; whether a held call is taken up again."""
        state = self._state
        now = state.clock()
        assert self.caller is not None
        if await self._resume(now):
            return True
        if self.caller.vouched:
            raise Refused(404, "not_held", "this server does not hold this call")
        if self.query.resume:
            state.metrics.resumed.labels("nowhere").inc()
        self._lease = await state.admission.enter(self.caller, now)
        engine = state.admit()
        q, settings = self.query, state.settings
        try:
            self.session = engine.session(
                seed=settings.seed if q.seed is None else q.seed,
                temp=settings.temp if q.temp is None else q.temp,
                temp_text=settings.temp_text if q.temp_text is None else q.temp_text,
                top_k=settings.top_k if q.top_k is None else q.top_k,
                top_k_text=settings.top_k_text if q.top_k_text is None else q.top_k_text,
                pace="realtime" if q.paced else "none",
                clock="server" if q.server_clock else "input",
                transport="pcm" if q.pcm else "opus",
                max_seconds=self.caller.max_seconds,
                max_frames=q.max_frames,
                idle_seconds=settings.idle_seconds or None,
                wait=settings.queue_seconds,
            ).open()
        except (ClosedError, InputError) as error:
            raise Refused(503, "error", str(error), 5) from None
        return False

    async def _resume(self, now: float) -> bool:
        """Takes a held call up again, in the form in which it began."""
        state, caller, token = self._state, self.caller, self.query.resume
        assert caller is not None
        held = await state.find_held(token, caller) if token is not None else None
        if held is None or token is None:
            return False
        lease = await state.admission.enter(caller, now, held=held.lease)
        if state.held.get(token) is not held:
            # It ended, or another connection took it up, while the limits were asked for.
            if lease is not held.lease:
                lease.release()
            return False
        self._lease = lease
        state.take(token)
        again = state.engine.resume(token) if state.engine is not None else None
        if again is None:
            state.let_go(held)
            return False
        state.metrics.resumed.labels("here").inc()
        self.session, self._began = again, held.began
        self.query = replace(held.query, resumable=self.query.resumable, ours=self.query.ours)
        return True

    async def _refuse(self, refused: Refused) -> None:
        """Tells why not: browsers see only messages and closes, others the answer itself."""
        reason = "key_limit" if refused.status == 429 else refused.code
        reason = {401: "auth", 403: "auth", 400: "bad_request"}.get(refused.status, reason)
        other_page = refused.code in ("origin", "host")
        reason = "origin" if other_page else reason
        self._state.metrics.rejected.labels(PROTOCOL, reason).inc()
        browser = "origin" in self._socket.headers and not other_page
        facts = {"status": refused.status, "reason": refused.code}
        log.info("call refused", extra={"protocol": PROTOCOL, **facts})
        with contextlib.suppress(Exception):
            if not browser:
                answer = JSONResponse(
                    refused.body(), status_code=refused.status, headers=refused.headers()
                )
                await self._socket.send_denial_response(answer)
                return
            await self._socket.accept()
            await self._socket.send_bytes(kyutai.error(refused.message))
            code = {503: 1013}.get(refused.status, 1008)
            await self._socket.close(1012 if refused.code == "draining" else code, refused.code)

    # ---- the conversation ------------------------------------------------------------------

    async def _converse(self, resumed: bool) -> None:
        """Two tasks, until one ends: one reads what the client sends, one sends what the engine
        gives."""
        session = self.session
        assert session is not None
        reader = asyncio.create_task(self._read(session))
        writer = asyncio.create_task(self._write(session, resumed))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not (self._closed or reader.done()):
                await asyncio.wait({reader}, timeout=_LAST_WORDS)
        finally:
            reader.cancel()
            writer.cancel()
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, _BROKEN):
                raise end
        if not self._closed:
            self._gone = self._gone or 1006
            if not self._hold(session):
                session.ask_end("client")

    async def _write(self, session: AsyncSession, resumed: bool) -> None:
        """Sends what the engine gives until its end."""
        while True:
            await self._flow.wait()
            event = await session.next()
            if event is None:
                return
            await self._tell(event, resumed)

    async def _tell(self, event: Event, resumed: bool) -> None:
        """Sends what an event means to the client."""
        if isinstance(event, AudioEvent):
            payload = kyutai.pcm(event.pcm) if self.query.pcm else event.data
            await self._send(kyutai.audio(payload))
        elif isinstance(event, TextEvent):
            await self._send(kyutai.text(event.text))
        elif isinstance(event, StateEvent):
            if event.state == "active" and not self._active:
                self._active = True
                if not resumed:
                    self._began = self._state.clock()
                    self._state.metrics.started.labels(PROTOCOL).inc()
                log.info("call begins", extra=self._facts())
                if self.query.resumable:
                    self._state.offer(self)
                await self._send(kyutai.handshake())
                await self._send(kyutai.metadata(self._about(resumed)))
            elif self.query.ours:
                values = {"state": event.state, "position": event.position}
                await self._send(kyutai.metadata(values))
        else:
            await self._finish(event)

    async def _finish(self, end: EndEvent) -> None:
        """The last words: why, then the close frame."""
        if self._lease is not None:
            # Before the client is told: it may come back at once.
            self._lease.release()
        message = end.message
        if end.reason == "drain":
            message = "server restarting"
        if end.reason not in _SILENT and message:
            await self._send(kyutai.error(message))
        await self._socket.close(_CLOSE.get(end.reason, 1011), end.reason)
        self._closed = True

    async def _send(self, message: bytes) -> None:
        self._sending_since = self._state.clock()
        await self._socket.send_bytes(message)
        self._sending_since = None
        self._sent_at = self._state.clock()
        self._count_out.inc()
        self._size_out.inc(len(message))

    async def _read(self, session: AsyncSession) -> None:
        """Takes what the client sends until it goes."""
        metrics = self._state.metrics
        count = metrics.messages.labels(PROTOCOL, "in")
        size = metrics.bytes.labels(PROTOCOL, "in")
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._gone = message.get("code") or 1006
                return
            data = message.get("bytes")
            count.inc()
            size.inc(len(data or message.get("text") or ""))
            incoming = kyutai.parse(data)
            try:
                await self._take(session, incoming)
            except (ClosedError, InputError):
                # It has just ended; its last event says why.
                continue

    async def _take(self, session: AsyncSession, incoming: kyutai.Incoming) -> None:
        if incoming.kind == kyutai.AUDIO:
            if incoming.payload:
                payload = incoming.payload
                session.push(kyutai.samples(payload) if self.query.pcm else payload)
            if not self.query.paced:
                await session.room()
        elif incoming.kind == kyutai.PING:
            if incoming.payload and self.query.ours and len(incoming.payload) <= 64:
                await self._send(kyutai.ping(incoming.payload))
        elif incoming.kind is None:
            self._garbage += 1
        self._count_garbage(session)

    def _count_garbage(self, session: AsyncSession) -> None:
        if self._garbage + session.bad_messages >= GARBAGE:
            session.ask_end("garbage", "too many messages that mean nothing; see docs/server.md")

    # ---- around it -------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Called about four times a second: keepalive, revoked keys, clients that do not read."""
        session, caller = self.session, self.caller
        if self.forward is not None:
            since = self.forward.sending_since
            if since is not None and now - since > STUCK_CLIENT:
                self.drop()
        if session is None or caller is None:
            return
        if self._state.access.revoked(caller):
            session.ask_end("revoked", "the key of this call was revoked")
        # Bytes that hold no audio are found out after they were taken.
        self._count_garbage(session)
        self._watch_line(session, now)
        idle = self._sending_since is None and now - self._sent_at > KEEPALIVE
        if idle and (self._active or self.query.ours):
            self._sent_at = now
            self._pinging = asyncio.get_running_loop().create_task(self._ping())

    def _watch_line(self, session: AsyncSession, now: float) -> None:
        """What to do with a client that takes its audio late, or not at all."""
        late = 0.0 if self._sending_since is None else now - self._sending_since
        if self.query.paced:
            # A file's answers may wait: nobody hears them late.
            unanswered = self._socket.scope.get("extensions", {}).get("kaiwa.unanswered")
            late = max(late, unanswered()) if unanswered is not None else late
        if self.query.resumable and self._active and late > LOST_CLIENT:
            self.drop()
        elif late > STUCK_CLIENT and self._task is not None and not self._stuck:
            self._stuck = True
            self._task.cancel()
        if late > SLOW_CLIENT and not session.ended:
            self._flow.clear()
        else:
            self._flow.set()

    async def _ping(self) -> None:
        with contextlib.suppress(*_BROKEN):
            await self._socket.send_bytes(kyutai.ping())

    def drop(self) -> None:
        """Breaks the connection as if the network had done it."""
        transport = self._socket.scope.get("extensions", {}).get("kaiwa.transport")
        if transport is not None:
            transport.abort()

    def _hold(self, session: AsyncSession) -> bool:
        """Keeps the slot if the connection was lost and the client can come back."""
        lease, caller = self._lease, self.caller
        if not (self.query.resumable and self._gone in _LOST and lease and caller):
            return False
        held = Held(session, lease, caller, self.query, self._began, PROTOCOL)
        if not self._state.hold(held):
            return False
        log.info("call held", extra=self._facts())
        self._lease = self.session = None
        return True

    def _leave(self) -> None:
        """Frees what the call had."""
        state, session = self._state, self.session
        state.connections.discard(self)
        state.withdraw(self)
        if session is not None:
            other = "slow_consumer" if self._stuck else "client" if self._gone else "error"
            end = session.end_reason or other
            session.close()
            if self._active:
                state.metrics.ended.labels(PROTOCOL, end).inc()
                seconds = state.clock() - self._began
                state.metrics.duration.labels(PROTOCOL).observe(seconds)
            elif end in ("full", "overloaded", "draining"):
                state.metrics.rejected.labels(PROTOCOL, end).inc()
            log.info("call ends", extra={**self._facts(), "reason": end})
        if self._lease is not None:
            self._lease.release()
        # A task that was cancelled leaves the socket open.
        if self._socket.application_state == WebSocketState.CONNECTED and self._gone is None:
            part = self._socket.scope.get("extensions", {}).get("kaiwa.part")
            if self._stuck and part is not None:
                part(kyutai.error(TOO_SLOW), _CLOSE["slow_consumer"], "slow_consumer")
            else:
                self.drop()

    def _about(self, resumed: bool) -> dict[str, Any]:
        state, engine, session, q = self._state, self._state.engine, self.session, self.query
        assert engine is not None
        assert session is not None
        assert self.caller is not None
        usual = engine.default_sampling
        chosen = {
            name: next(
                v
                for v in (getattr(q, name), getattr(state.settings, name), getattr(usual, name))
                if v is not None
            )
            for name in ("temp", "temp_text", "top_k", "top_k_text")
        }
        from kaiwa import __version__

        hold = state.settings.resume_seconds if q.resumable else 0
        return kyutai.about_session(
            model=engine.name,
            sampling=chosen,
            version=__version__,
            extra={
                "protocol": PROTOCOL,
                "session_id": str(session.id),
                "max_seconds": self.caller.max_seconds,
                "resume_token": session.resume_token if hold else None,
                "resume_seconds": hold,
                "resumed": resumed,
                "model": engine.name,
                "synthetic": engine.synthetic,
                "seed": session.seed,
            },
        )

    def _facts(self) -> dict[str, Any]:
        """For the log."""
        facts: dict[str, Any] = {"protocol": PROTOCOL}
        if self.session is not None:
            facts["session"] = self.session.id
        if self.caller is not None and self.caller.name:
            facts["key_name"] = self.caller.name
        return facts

    def listing(self) -> dict[str, Any]:
        """A row of the list of sessions; empty if there is nothing to show."""
        info = self.session.info() if self.session is not None else {}
        return _row(info, self.caller)


def _row(info: dict[str, Any], caller: Caller | None) -> dict[str, Any]:
    if not info:
        return {}
    return {
        "id": str(info["id"]),
        "protocol": PROTOCOL,
        "key_name": caller.name if caller is not None else "",
        "state": info["state"],
        "seconds": round(info["seconds"], 1),
        "frames": info["frames_out"],
        "backlog": info["backlog"],
        "slot": info["slot"],
    }


def listing(state: ServerState) -> list[dict[str, Any]]:
    """Live sessions, those that are held included."""
    rows = [c.listing() for c in state.connections]
    rows += [_row(h.session.info(), h.caller) for h in state.held.values()]
    return sorted((r for r in rows if r), key=lambda r: int(r["id"]))

"""The protocol as the life of a call sees it: one answer for every frame, without turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from kaiwa import reasons
from kaiwa.server.channel import Message
from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import (
    Audio,
    CallCodec,
    CallInfo,
    CallRequest,
    Ending,
    Entry,
    Finish,
    HangUp,
    Input,
    Reply,
    Unknown,
    WireProtocol,
)
from kaiwa.server.protocols.formats import Decoder, Encoder
from kaiwa.server.protocols.live import start
from kaiwa.server.protocols.live.start import Invalid, Session
from kaiwa.server.refusal import Refused
from kaiwa.session import FRAME_SECONDS, AudioEvent, StateEvent, TextEvent

PATH = "/v1/live/sessions"
#: Seconds in which a client has to ask for its session.
START_SECONDS = 10.0
#: Messages without a meaning that a client may send before.
MOST_GARBAGE = 100
FRAME_MS = round(FRAME_SECONDS * 1000)
#: Frames between two reports of usage: 10 s.
USAGE_FRAMES = 125
#: For sessions without an end, a time that is far enough away: a year.
NO_END = 365 * 86_400

#: Commands of the protocol that the model cannot carry out.
_UNSUPPORTED = {
    "session.instructions.append",
    "session.thinking.append",
    "session.commentary.append",
    "session.output_audio.fixture.play",
    "response.create",
    "response.item.create",
    "decision.create",
    "decision.item.create",
    "decision.item.delete",
}
#: Why a session was closed, by the reasons of calls; the others are failures.
_CLOSED = {
    "client": "close_requested",
    "finished": "close_requested",
    "expired": "expired",
    "idle": "expired",
    "closed": "expired",
    "drain": "expired",
}
#: What other words the protocol has for refusals.
_NO_ROOM = ("full", "overloaded", "draining", "starting")


class LiveProtocol(WireProtocol):
    """OpenAI's Live protocol: full duplex as the model is, so that nothing has to be made up."""

    name = "live"
    paths = (PATH,)

    def codec(self) -> CallCodec:
        """What translates for a new connection."""
        return LiveCodec()


class LiveCodec(CallCodec):
    """Translates for one connection."""

    def __init__(self) -> None:
        self._new_id = openai.Ids()
        self._id = self._new_id("sess")
        self._session: Session | None = None
        self._expires_at = 0
        self._realtime = True
        self._started = False
        self._muted = False
        #: Names of the events that asked for the session and for its end.
        self._start_event: str | None = None
        self._close_event: str | None = None
        #: Frames answered, and frames that the model remembers.
        self._frames = 0
        self._context: int | None = None

    async def open(self, entry: Entry) -> CallRequest:
        """Lets a caller with a key and a chance of a slot in, and waits for `session.start`."""
        self.subprotocol = openai.subprotocol(entry.headers)
        await entry.authorize(openai.with_key(entry.headers))
        entry.check_room()
        self._realtime = entry.query.get("pace") != "none"
        await entry.accept(self.subprotocol)
        try:
            session = await asyncio.wait_for(self._wait_for_start(entry), START_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(
                400,
                "session_start_timeout",
                f"no session.start came within {START_SECONDS:g} s; send it first",
            ) from None
        self._session = session
        self._decoder, self._encoder = Decoder(session.format), Encoder(session.format)
        return CallRequest(server_clock=True, realtime=self._realtime)

    async def _wait_for_start(self, entry: Entry) -> Session:
        """The session that the client asks for.

        Raises:
            Refused: It asks for another model, or sends nothing that means anything.
        """
        garbage = 0
        while True:
            event = openai.parse(await entry.receive())
            kind = None if event is None else event.get("type")
            try:
                if event is not None and kind == "session.start":
                    session = start.read(event.get("session"), entry.model, entry.preset)
                    self._start_event = openai.event_id(event)
                    return session
                if not isinstance(kind, str):
                    raise _not_an_event()
                raise Invalid(
                    "session_not_started", f"{kind[:80]} came too early; send session.start first"
                )
            except Invalid as invalid:
                await entry.send(self._error(invalid, event or {}))
            garbage += 1
            if garbage >= MOST_GARBAGE:
                raise Refused(
                    400, "garbage", "too many messages that mean nothing; see docs/server.md"
                )

    def decode(self, message: Message) -> Iterable[Input]:
        """What a message means; unknown events mean nothing."""
        event = openai.parse(message)
        kind = None if event is None else event.get("type")
        if event is None or not isinstance(kind, str):
            return (Reply((self._error(_not_an_event(), event or {}),)), Unknown())
        if kind == "session.input_audio.append":
            return self._hear(event)
        handle = _COMMANDS.get(kind)
        try:
            if handle is not None:
                return handle(self, event)
            if kind == "session.start":
                raise Invalid("session_already_started", "the session goes on; start it only once")
            if kind in _UNSUPPORTED:
                raise Invalid(
                    "unsupported_operation", f"this model cannot do {kind}; leave it out", "type"
                )
        except Invalid as invalid:
            return (Reply((self._error(invalid, event),)),)
        return ()

    def _hear(self, event: dict[str, Any]) -> Iterable[Input]:
        """Audio of the caller, or silence in its place."""
        data = openai.audio_bytes(event.get("audio"))
        if data is None:
            invalid = Invalid("invalid_value", "audio is not base64; send raw audio so", "audio")
            return (Reply((self._error(invalid, event),)), Unknown())
        if self._realtime:
            # Of a call at most 320 ms may wait; converting more would only take time.
            data = self._decoder.format.last_second(data)
        pcm = self._decoder.decode(data)
        return (Audio(np.zeros_like(pcm) if self._muted else pcm),)

    def _mute(self, event: dict[str, Any], muted: bool) -> Iterable[Input]:
        self._muted = muted
        kind = "session.input_audio.muted" if muted else "session.input_audio.unmuted"
        return (Reply((self._event(kind, answers=openai.event_id(event)),)),)

    def _update(self, event: dict[str, Any]) -> Iterable[Input]:
        assert self._session is not None
        self._session.update(event.get("session"))
        given = openai.event_id(event)
        told = self._event("session.updated", answers=given, session=self._resource())
        return (Reply((told,)),)

    def _close(self, event: dict[str, Any]) -> Iterable[Input]:
        self._close_event = openai.event_id(event)
        return (Finish() if self._started else HangUp(),)

    def started(self, info: CallInfo) -> Iterable[Message]:
        """The session as it is."""
        self._started = True
        self._context = info.context_frames
        seconds = NO_END if info.max_seconds is None else info.max_seconds
        self._expires_at = int(time.time() + seconds)
        return (
            self._event("session.started", answers=self._start_event, session=self._resource()),
        )

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """Audio of each frame, text with its times; every ten seconds the usage."""
        if isinstance(event, AudioEvent):
            self._frames = round(event.t / FRAME_SECONDS) + 1
            data = self._encoder.encode(event.pcm)
            # Written by hand: nothing in it needs escaping, and there are many of these.
            told = (
                f'{{"type":"session.output_audio.delta","event_id":"{self._new_id("event")}",'
                f'"delta":"{openai.audio_text(data)}"}}'
            )
            messages = [told] if data else []
            if self._frames % USAGE_FRAMES == 0:
                messages.append(self._usage_event())
            return messages
        if isinstance(event, TextEvent):
            start_ms = round(event.t * 1000)
            kind, end_ms = "session.output_transcript.delta", start_ms + FRAME_MS
            return (self._event(kind, delta=event.text, start_ms=start_ms, end_ms=end_ms),)
        return ()

    def notice(self, seconds: float) -> Iterable[Message]:
        """The server stops."""
        message = f"the server restarts and ends this session in {seconds:.0f} s; start another"
        return (self._event("info", code="server_draining", message=message),)

    def end(self, reason: str, message: str) -> Ending:
        """`session.closed`; before it an error if the session did not end as sessions do."""
        ending = super().end(reason, message)
        closed = _CLOSED.get(reason)
        messages = []
        if closed is None or not (self._started or closed == "close_requested"):
            code = "capacity_exceeded" if reason in _NO_ROOM else reason
            messages.append(self._failure(code, message or reasons.sentence_of(reason)))
        if self._started:
            told = self._event(
                "session.closed",
                answers=self._close_event,
                reason=closed or "connection_lost",
                session=self._resource(),
                usage=self._usage(),
            )
            messages.append(told)
        close = 1001 if reason == "drain" else ending.code
        return replace(ending, messages=tuple(messages), code=close)

    def refuse(self, refused: Refused) -> Ending:
        """The refusal as an error."""
        code = "capacity_exceeded" if refused.code in _NO_ROOM else refused.code
        error = self._failure(code, refused.message, str(refused.body()["error"]["type"]))
        return replace(super().refuse(refused), messages=(error,))

    # ---- messages --------------------------------------------------------------------------

    def _event(self, kind: str, *, answers: str | None = None, **members: Any) -> str:
        """An event of the server, which may answer one of the client's by its name."""
        asked = {} if answers is None else {"client_event_id": answers}
        return openai.write({"type": kind, "event_id": self._new_id("event"), **members, **asked})

    def _error(self, invalid: Invalid, event: dict[str, Any]) -> str:
        """An event of the client cannot be carried out."""
        error = {
            "type": "invalid_request_error",
            "code": invalid.code,
            "message": invalid.message,
            "param": invalid.param,
            "client_event_id": openai.event_id(event),
        }
        return self._event("error", answers=openai.event_id(event), error=error)

    def _failure(self, code: str, message: str, kind: str = "server_error") -> str:
        """An error that answers nothing."""
        return self._event("error", error={"type": kind, "code": code, "message": message})

    def _usage(self) -> dict[str, Any]:
        return {"seconds": round(self._frames * FRAME_SECONDS, 2)}

    def _usage_event(self) -> str:
        window: dict[str, Any] = {}
        if self._context:
            ratio = round(min(1.0, self._frames / self._context), 4)
            window = {"context_window": {"usage_ratio": ratio}}
        return self._event("session.usage.updated", usage=self._usage(), **window)

    def _resource(self) -> dict[str, Any]:
        assert self._session is not None
        return self._session.resource(self._id, self._expires_at)


def _not_an_event() -> Invalid:
    return Invalid("invalid_event", "this is no event; send JSON objects with a type, as text")


_Command = Callable[[LiveCodec, dict[str, Any]], Iterable[Input]]
_COMMANDS: dict[str, _Command] = {
    "session.input_audio.mute": lambda codec, event: codec._mute(event, True),
    "session.input_audio.unmute": lambda codec, event: codec._mute(event, False),
    "session.update": LiveCodec._update,
    "session.close": LiveCodec._close,
}

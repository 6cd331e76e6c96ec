"""The protocol as the life of a call sees it: turns are cut out of a model that always answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from kaiwa import reasons
from kaiwa.server.channel import Message
from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import (
    Audio,
    CallCodec,
    CallInfo,
    CallRequest,
    ClearInput,
    Ending,
    Entry,
    Input,
    Reply,
    Services,
    Unknown,
    WireProtocol,
)
from kaiwa.server.protocols.formats import Decoder, Encoder
from kaiwa.server.protocols.realtime import conversation, responses, routes
from kaiwa.server.protocols.realtime.callers import CallerTurns
from kaiwa.server.protocols.realtime.conversation import Conversation
from kaiwa.server.protocols.realtime.dialect import to_beta
from kaiwa.server.protocols.realtime.responses import Response
from kaiwa.server.protocols.realtime.settings import BadValue, Settings
from kaiwa.server.protocols.realtime.turns import Frame, Turns
from kaiwa.server.refusal import Refused
from kaiwa.session import FRAME_SECONDS, AudioEvent, StateEvent, TextEvent

PATH = "/v1/realtime"
BETA = "realtime_beta"
_BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
#: Frames in which the model has to begin the response that was asked for: 8 s.
RESPONSE_FRAMES = 100
#: For sessions without an end, a time that is far enough away: a year.
NO_END = 365 * 86_400
#: Answers that are kept for a client that asks before it has its slot.
MOST_EARLY = 200

Event = dict[str, Any]


class RealtimeProtocol(WireProtocol):
    """OpenAI's Realtime protocol, in its present and its older dialect."""

    name = "realtime"
    paths = (PATH,)
    dialects = (BETA,)
    cross_origin = {routes.CLIENT_SECRETS: ("POST",)}  # noqa: RUF012

    def codec(self) -> CallCodec:
        """What translates for a new connection."""
        return RealtimeCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        """Where browsers' servers get secrets for them."""
        routes.add(router, services, self.name)


class RealtimeCodec(CallCodec):
    """Translates for one connection."""

    def __init__(self) -> None:
        self._new_id = openai.Ids()
        self._id, self._conversation_id = self._new_id("sess"), self._new_id("conv")
        self._settings = Settings("")
        self._beta = False
        self._realtime = True
        #: The client wants to know when what it is sent was said.
        self._timed = False
        self._expires_at = 0
        #: Answers that wait for `session.created`; None once it was sent.
        self._early: list[str] | None = []
        self._turns, self._callers = Turns(), CallerTurns()
        self._items = Conversation()
        #: The response that is open, or was asked for and waits for the model to speak.
        self._response: Response | None = None
        self._last_response = ""
        #: The user item whose speech is being heard; audio came since the last one.
        self._speaking: str | None = None
        self._uncommitted = False
        self._frame = 0
        self._decoder: Decoder | None = None
        self._encoder: Encoder | None = None

    async def open(self, entry: Entry) -> CallRequest:
        """Everything that has to be known is in the address and the headers."""
        self.subprotocol = openai.subprotocol(entry.headers)
        self._beta = entry.headers.get(
            "openai-beta", ""
        ).strip() == "realtime=v1" or _BETA_SUBPROTOCOL in openai.offered(entry.headers)
        if self._beta:
            self.label = BETA
        await entry.authorize(openai.with_key(entry.headers))
        self._settings = Settings(entry.model)
        self._settings.update(dict(entry.preset), heard=False, spoke=False)
        openai.check_model(entry.query.get("model"), entry.model)
        self._realtime = entry.query.get("pace") != "none"
        self._timed = entry.query.get("extensions") == "1"
        self._callers.configure(self._settings.detection)
        return CallRequest(server_clock=True, realtime=self._realtime)

    def started(self, info: CallInfo) -> Iterable[Message]:
        """The session as it is, then what the client was too early to be answered."""
        self._settings.model = info.model
        seconds = NO_END if info.max_seconds is None else info.max_seconds
        self._expires_at = int(time.time() + seconds)
        early, self._early = self._early, None
        return [*self._write([self._session("session.created")]), *(early or ())]

    # ---- from the client -------------------------------------------------------------------

    def decode(self, message: Message) -> Iterable[Input]:
        """What a message means. What is unknown has no effect, because clients end at an error."""
        event = openai.parse(message)
        kind = None if event is None else event.get("type")
        if event is None or not isinstance(kind, str):
            text = "this is no event; send JSON objects with a type, as text"
            return [*self._reply([self._error("invalid_event", text, event)]), Unknown()]
        if kind == "input_audio_buffer.append":
            return self._hear(event)
        if kind == "input_audio_buffer.clear":
            return self._clear()
        handle = _EVENTS.get(kind)
        return [] if handle is None else self._reply(handle(self, event))

    def _reply(self, events: Iterable[Event]) -> list[Input]:
        written = self._write(events)
        if self._early is not None:
            self._early = [*self._early, *written][:MOST_EARLY]
            return []
        return [Reply(tuple(written))] if written else []

    def _hear(self, event: Event) -> list[Input]:
        data = openai.audio_bytes(event.get("audio"))
        if data is None:
            text = "audio is not base64; send raw audio so"
            return [*self._reply([self._error("invalid_value", text, event, "audio")]), Unknown()]
        if self._decoder is None:
            self._decoder = Decoder(self._settings.input)
        if self._realtime:
            # Of a call at most 320 ms may wait; converting more would only take time.
            data = self._decoder.format.last_second(data)
        return self._listen(self._decoder.decode(data))

    def _listen(self, pcm: NDArray[np.float32]) -> list[Input]:
        """The caller's sound, at 24 kHz."""
        self._uncommitted = self._uncommitted or bool(len(pcm))
        if self._settings.detection is not None:
            self._callers.hear(pcm)
        return [Audio(pcm), *self._reply(self._caller_events())]

    def _caller_events(self) -> list[Event]:
        """What the client is to be told about its caller's speech."""
        events: list[Event] = []
        response = self._response
        responding = response is not None and response.item_id is not None

        def interrupt() -> None:
            self._turns.interrupt()
            events.extend(self._end_response("turn_detected"))

        for mark in self._callers.due(responding=responding, interrupt=interrupt):
            if mark.began:
                self._speaking = self._new_id("item")
                kind, when = "input_audio_buffer.speech_started", "audio_start_ms"
            elif self._speaking is None:
                continue
            else:
                kind, when = "input_audio_buffer.speech_stopped", "audio_end_ms"
            events.append({"type": kind, when: mark.at_ms, "item_id": self._speaking})
            if not mark.began:
                events += self._commit_item()
        return events

    def _commit_item(self) -> list[Event]:
        """What was heard becomes an item."""
        item_id = self._speaking or self._new_id("item")
        self._speaking, self._uncommitted = None, False
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        before = self._items.add(item)
        committed = {
            "type": "input_audio_buffer.committed",
            "item_id": item_id,
            "previous_item_id": before,
        }
        return [committed, *_added(item, before)]

    def _commit(self, event: Event) -> list[Event]:
        if not self._uncommitted:
            text = "no audio came since the last commit; append some first"
            return [self._error("input_audio_buffer_commit_empty", text, event)]
        return self._commit_item()

    def _clear(self) -> list[Input]:
        """What the model has not heard yet, it will not hear."""
        self._uncommitted, self._speaking = False, None
        self._callers.clear()
        if self._decoder is not None:
            self._decoder.clear()
        return [ClearInput(), *self._reply([{"type": "input_audio_buffer.cleared"}])]

    def _update(self, event: Event) -> list[Event]:
        asked = event.get("session")
        if not isinstance(asked, dict):
            text = "session is no object; send one with what is to change"
            return [self._error("invalid_value", text, event, "session")]
        events = []
        heard, spoke = self._decoder is not None, self._encoder is not None
        try:
            self._settings.update(asked, heard=heard, spoke=spoke)
        except BadValue as bad:
            events.append(self._error("invalid_value", str(bad), event, bad.param))
        self._callers.configure(self._settings.detection)
        return [*events, self._session("session.updated")]

    def _create_item(self, event: Event) -> list[Event]:
        item = conversation.read(event.get("item"), self._new_id("item"))
        if item is None:
            text = "item is none; send a message, a function_call or a function_call_output"
            return [self._error("invalid_value", text, event, "item")]
        if item["id"] in self._items:
            text = f"there is an item {item['id'][:80]}; use another id"
            return [self._error("item_create_duplicate_item_id", text, event, "item.id")]
        after = event.get("previous_item_id")
        return _added(item, self._items.add(item, after if isinstance(after, str) else None))

    def _retrieve_item(self, event: Event) -> list[Event]:
        item_id = event.get("item_id")
        item = self._items.get(item_id) if isinstance(item_id, str) else None
        if item is None:
            text = "there is no such item; it was never made, or is forgotten"
            return [self._error("item_retrieve_invalid_item_id", text, event, "item_id")]
        return [{"type": "conversation.item.retrieved", "item": item}]

    def _delete_item(self, event: Event) -> list[Event]:
        item_id = event.get("item_id")
        if not isinstance(item_id, str):
            return []
        self._items.remove(item_id)
        return [{"type": "conversation.item.deleted", "item_id": item_id}]

    def _truncate_item(self, event: Event) -> list[Event]:
        """The client has played only a part. What the model knows it said does not change."""
        item_id = event.get("item_id")
        if not isinstance(item_id, str):
            return []
        numbers = {name: event.get(name) for name in ("content_index", "audio_end_ms")}
        told = {
            name: n if isinstance(n, int) and not isinstance(n, bool) and abs(n) < 1 << 53 else 0
            for name, n in numbers.items()
        }
        return [{"type": "conversation.item.truncated", "item_id": item_id, **told}]

    def _create_response(self, event: Event) -> list[Event]:
        if self._response is not None:
            text = "the conversation has an active response; wait for it, or cancel it"
            return [self._error("conversation_already_has_active_response", text, event)]
        self._response = self._new_response(
            metadata=responses.metadata(event.get("response")), created_at=self._frame
        )
        return [self._response.created()]

    def _cancel_response(self, event: Event) -> list[Event]:
        wanted = event.get("response_id")
        other = isinstance(wanted, str) and self._response and wanted != self._response.id
        if self._response is None or other:
            text = "Cancellation failed: there is no active response; nothing has to be done"
            return [self._error("response_cancel_not_active", text, event)]
        return self._silence()

    def _clear_output(self, event: Event) -> list[Event]:
        events = [] if self._response is None else self._silence()
        cleared = {"type": "output_audio_buffer.cleared", "response_id": self._last_response}
        return [*events, cleared]

    def _silence(self) -> list[Event]:
        """Ends the response; what the model still says of it is not heard."""
        if self._response is not None and self._response.item_id is not None:
            self._turns.mute()
        return [*self._end_response("client_cancelled"), *self._caller_events()]

    # ---- from the model --------------------------------------------------------------------

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """One event by itself."""
        return self.encode_all([event])

    def encode_all(
        self, events: Sequence[AudioEvent | TextEvent | StateEvent]
    ) -> Iterable[Message]:
        """Text goes before the audio of its frame."""
        frames: list[Frame] = []
        for event in events:
            if isinstance(event, StateEvent):
                continue
            number = round(event.t / FRAME_SECONDS)
            if isinstance(event, AudioEvent):
                frames.append(Frame(number, event.pcm))
                continue
            if not frames or frames[-1].number != number:
                frames.append(Frame(number, None))
            frames[-1].text.append(event.text)
        return [message for frame in frames for message in self._step(frame)]

    def _step(self, frame: Frame) -> list[Message]:
        """What a frame means to the client."""
        self._frame = frame.number
        if frame.pcm is not None and self._settings.detection is not None:
            self._callers.frame()
        step = self._turns.step(frame)
        messages: list[Message] = [*self._write(self._begin_turn())] if step.begins else []
        for spoken in step.frames:
            messages += self._speak(spoken)
        if step.ends:
            messages += self._write(self._end_response(None))
        response = self._response
        if (
            response is not None
            and response.item_id is None
            and frame.number - response.created_at >= RESPONSE_FRAMES
        ):
            # It was asked for, and the model has nothing to say.
            messages += self._write(self._end_response(None))
        return messages + self._write(self._caller_events())

    def _begin_turn(self) -> list[Event]:
        events = []
        if self._response is None:
            self._response = self._new_response(created_at=self._frame)
            events.append(self._response.created())
        spoken = self._response.speaks(self._new_id("item"))
        before = self._items.add(self._response.item("in_progress"))
        spoken[1]["previous_item_id"] = before
        return events + spoken

    def _speak(self, frame: Frame) -> list[str]:
        response = self._response
        if response is None:
            return []
        start_ms = round(frame.number * FRAME_SECONDS * 1000)
        when = {"start_ms": start_ms} if self._timed else {}
        messages = self._write([{**response.text(piece), **when} for piece in frame.text])
        if frame.pcm is None:
            return messages
        response.frames += 1
        return messages + self._audio(response, frame.pcm, start_ms)

    def _audio(self, response: Response, pcm: NDArray[np.float32], start_ms: int) -> list[str]:
        """The sound of a frame as events."""
        if self._encoder is None:
            self._encoder = Encoder(self._settings.output)
        data = self._encoder.encode(pcm)
        if not data:
            return []
        # Written by hand: nothing in it needs escaping, and there are many of these.
        kind = "response.audio.delta" if self._beta else "response.output_audio.delta"
        start = f'"start_ms":{start_ms},' if self._timed else ""
        return [
            f'{{"type":"{kind}","event_id":"{self._new_id("event")}",'
            f'"response_id":"{response.id}","item_id":"{response.item_id}","output_index":0,'
            f'"content_index":0,{start}"delta":"{openai.audio_text(data)}"}}'
        ]

    def _new_response(self, **members: Any) -> Response:
        output = self._settings.told_output()
        response = Response.new(self._new_id, self._conversation_id, output, **members)
        self._last_response = response.id
        return response

    def _end_response(self, reason: str | None) -> list[Event]:
        """Ends the response, if there is one: completed, or cancelled for a reason."""
        response, self._response = self._response, None
        if response is None:
            return []
        events = response.done(reason)
        if response.item_id is not None:
            before = None
            for event in events:
                if event["type"] == "conversation.item.done":
                    self._items.add(event["item"])
                    before = self._items.before(response.item_id)
                    event["previous_item_id"] = before
        return events

    # ---- the end ---------------------------------------------------------------------------

    def end(self, reason: str, message: str) -> Ending:
        """An error, unless the call ended as calls do."""
        ending = super().end(reason, message)
        if reason in ("expired", "drain"):
            ended = self._failure("session_expired", message or reasons.sentence_of(reason))
            return replace(ending, messages=(ended,), code=1001)
        if ending.code == 1000:
            return ending
        return replace(
            ending, messages=(self._failure(reason, message or reasons.sentence_of(reason)),)
        )

    def refuse(self, refused: Refused) -> Ending:
        """The refusal as an error."""
        told = self._failure(refused.code, refused.message, str(refused.body()["error"]["type"]))
        return replace(super().refuse(refused), messages=(told,))

    # ---- messages --------------------------------------------------------------------------

    def _write(self, events: Iterable[Event]) -> list[str]:
        """Events as text, in the dialect of the client."""
        messages = []
        for event in events:
            named = {"type": event["type"], "event_id": self._new_id("event"), **event}
            told = to_beta(named) if self._beta else named
            if told is not None:
                messages.append(openai.write(told))
        return messages

    def _session(self, kind: str) -> Event:
        return {"type": kind, "session": self._settings.told(self._id, self._expires_at)}

    def _error(
        self, code: str, message: str, event: Event | None, param: str | None = None
    ) -> Event:
        """An event of the client cannot be carried out."""
        error = {
            "type": "invalid_request_error",
            "code": code,
            "message": message,
            "param": param,
            "event_id": None if event is None else openai.event_id(event),
        }
        return {"type": "error", "error": error}

    def _failure(self, code: str, message: str, kind: str = "server_error") -> str:
        """An error that answers nothing."""
        error = {"type": kind, "code": code, "message": message, "param": None, "event_id": None}
        return self._write([{"type": "error", "error": error}])[0]


def _added(item: Event, before: str | None) -> list[Event]:
    """An item is in the conversation, and complete."""
    told = {"item": item, "previous_item_id": before}
    return [{"type": f"conversation.item.{what}", **told} for what in ("added", "done")]


_Handler = Callable[[RealtimeCodec, Event], list[Event]]
_EVENTS: dict[str, _Handler] = {
    "session.update": RealtimeCodec._update,
    "input_audio_buffer.commit": RealtimeCodec._commit,
    "output_audio_buffer.clear": RealtimeCodec._clear_output,
    "conversation.item.create": RealtimeCodec._create_item,
    "conversation.item.retrieve": RealtimeCodec._retrieve_item,
    "conversation.item.delete": RealtimeCodec._delete_item,
    "conversation.item.truncate": RealtimeCodec._truncate_item,
    "response.create": RealtimeCodec._create_response,
    "response.cancel": RealtimeCodec._cancel_response,
}

"""Translates between one media stream and the life of a call."""

from __future__ import annotations

import asyncio
import binascii
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kaiwa.server.channel import Message
from kaiwa.server.protocols.base import (
    Audio,
    CallCodec,
    CallInfo,
    CallRequest,
    Ending,
    Entry,
    HangUp,
    Input,
    Reply,
    Unknown,
)
from kaiwa.server.protocols.telephony import credentials
from kaiwa.server.protocols.telephony.line import Line
from kaiwa.server.protocols.telephony.playback import Playback
from kaiwa.server.protocols.telephony.provider import (
    Blank,
    Encoding,
    Provider,
    filled,
    value_at,
)
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, TextEvent

log = logging.getLogger("kaiwa.server")

#: Seconds in which the provider has to say which call it is.
LOGIN_SECONDS = 10.0
#: Messages that may come before that.
MOST_GREETINGS = 20
#: Characters of a message; half a second of 16-bit audio at 24 kHz is 32 000.
LONGEST = 128 << 10
#: Messages that a provider may have sent ahead of the answers, and that each frame of the answer
#: (80 ms) allows it: a stream has one message for every 20 ms.
MESSAGES_AHEAD = 4000
MESSAGES_A_FRAME = 64

_UNKNOWN = (Unknown(),)
#: Ends of calls that are told with another close code than elsewhere.
_CODES = {"drain": 1001, "draining": 1001, "expired": 1001}

#: Refuses a request that does not come from the provider; `Refused`.
CheckOrigin = Callable[[Entry], None]


@dataclass(frozen=True)
class Start:
    """What a start message says.

    Attributes:
        stream: the stream's id.
        encoding, encoding_name: how samples are written, and what the provider calls it.
        rate: samples a second.
        secret: key or token; None if there is none.
    """

    stream: str
    encoding: Encoding
    encoding_name: str
    rate: int
    secret: str | None


class TelephonyCodec(CallCodec):
    """Translates for one stream."""

    def __init__(self, provider: Provider, check_origin: CheckOrigin | None = None) -> None:
        """A codec.

        Args:
            provider: whose stream it is.
            check_origin: looks at the request, before anything else.
        """
        self._provider = provider
        self._check_origin = check_origin
        self._line: Line | None = None
        self._playback = Playback()
        self._allowed = MESSAGES_AHEAD
        self._blanks: dict[Blank, object] = {}
        self._before = self._after = ""

    # ---- letting in ------------------------------------------------------------------------

    async def open(self, entry: Entry) -> CallRequest:
        """The caller is known by the request, or by the start message: until then there is a
        connection and nothing else, and none for web pages of others."""
        entry.check_page()
        if self._check_origin is not None:
            self._check_origin(entry)
        secret = credentials.from_headers(entry.headers, self._provider.secret_header)
        if secret is not None:
            await entry.authorize(*credentials.shown(secret, entry.headers))
        entry.check_room()
        await entry.accept()
        try:
            start = await asyncio.wait_for(self._started_by(entry), LOGIN_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(
                400,
                "session_start_timeout",
                f"no start message came within {LOGIN_SECONDS:g} s; send it first",
            ) from None
        if secret is None:
            await entry.authorize(*credentials.shown(start.secret, entry.headers))
        self._set_up(start)
        return CallRequest(server_clock=True, transport="pcm")

    async def _started_by(self, entry: Entry) -> Start:
        """Waits for the start message.

        Raises:
            Refused: 400.
        """
        for _ in range(MOST_GREETINGS):
            message = _parse(await entry.receive())
            if message is None:
                raise Refused(400, "bad_parameter", "messages are JSON objects in text frames")
            if message["event"] == self._provider.start_event:
                return read_start(self._provider, message)
        raise Refused(400, "bad_parameter", "the stream does not begin with a start message")

    def _set_up(self, start: Start) -> None:
        """Makes what the call needs."""
        provider = self._provider
        self._line = Line(start.encoding, start.rate, provider.frames)
        self._blanks = {
            Blank.STREAM: start.stream,
            Blank.ENCODING: start.encoding_name,
            Blank.RATE: start.rate,
        }
        # Audio messages differ in their payload only.
        self._before, self._after = self._written(provider.media, {Blank.PAYLOAD: "<>"}).split("<>")

    # ---- from the provider -----------------------------------------------------------------

    def decode(self, message: Message) -> Iterable[Input]:
        """What a message means. Events that are not known have no effect; messages that are no
        event, and more of any kind than a call needs, are `Unknown`."""
        provider = self._provider
        self._allowed -= 1
        event = _parse(message) if self._allowed >= 0 else None
        if event is None:
            return _UNKNOWN
        kind = event["event"]
        if kind == provider.media_event:
            return self._heard(event)
        if kind == provider.mark_event:
            name = value_at(event, provider.mark)
            return self._marked(name) if isinstance(name, str) else _UNKNOWN
        if kind == provider.stop_event:
            return (HangUp(),)
        return ()

    def _heard(self, event: Mapping[str, Any]) -> Iterable[Input]:
        """Audio of the caller; of another track, nothing."""
        provider = self._provider
        track = value_at(event, provider.track)
        if track is not None and track not in provider.caller_tracks:
            return ()
        payload = value_at(event, provider.payload)
        if not isinstance(payload, str):
            return _UNKNOWN
        try:
            data = binascii.a2b_base64(payload)
        except (binascii.Error, ValueError):
            return _UNKNOWN
        assert self._line is not None
        pcm = self._line.hear(data)
        return (Audio(pcm),) if len(pcm) else ()

    def _marked(self, name: str) -> Iterable[Input]:
        """A mark came back: what waits too long is thrown away."""
        if not self._playback.played(name):
            return ()
        log.info("playback lags; cleared", extra={"protocol": self._provider.name})
        return (Reply((self._written(self._provider.clear),)),)

    # ---- to the provider -------------------------------------------------------------------

    def started(self, info: CallInfo) -> Iterable[Message]:
        """Nothing: providers warn of messages that they do not know."""
        return ()

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """Audio, silence included, and now and then a mark. Text has no place here."""
        if not isinstance(event, AudioEvent):
            return ()
        assert self._line is not None
        self._allowed = min(self._allowed + MESSAGES_A_FRAME, MESSAGES_AHEAD)
        data = self._line.say(event.pcm)
        if not data:
            return ()
        payload = binascii.b2a_base64(data, newline=False).decode("ascii")
        audio = f"{self._before}{payload}{self._after}"
        mark = self._playback.sent(self._provider.frames)
        if mark is None:
            return (audio,)
        return (audio, self._written(self._provider.mark_sent, {Blank.MARK: mark}))

    def _written(
        self, template: Mapping[str, Any], values: Mapping[Blank, object] | None = None
    ) -> str:
        return json.dumps(filled(template, {**self._blanks, **(values or {})}))

    def end(self, reason: str, message: str) -> Ending:
        """The close frame alone."""
        ending = super().end(reason, message)
        return replace(ending, code=_CODES.get(reason, ending.code))

    def refuse(self, refused: Refused) -> Ending:
        """The close frame alone."""
        ending = super().refuse(refused)
        return replace(ending, code=_CODES.get(refused.code, ending.code))


def _parse(message: Message) -> dict[str, Any] | None:
    """A message with an event; None if it is none."""
    if not isinstance(message, str) or len(message) > LONGEST:
        return None
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("event"), str):
        return None
    return parsed


def read_start(provider: Provider, message: Mapping[str, Any]) -> Start:
    """Reads a start message.

    Raises:
        Refused: 400, with what is wrong.
    """
    stream = value_at(message, provider.stream)
    if not isinstance(stream, str) or not 0 < len(stream) <= 200:
        raise Refused(400, "bad_parameter", f"the start message has no {'.'.join(provider.stream)}")
    named = value_at(message, provider.encoding)
    name = named if isinstance(named, str) else ""
    encoding = provider.encodings.get(name)
    rate = _whole(value_at(message, provider.rate))
    channels = value_at(message, provider.channels)
    mono = channels is None or _whole(channels) == 1
    if encoding is None or rate not in provider.rates or not mono:
        forms = ", ".join(filter(None, provider.encodings))
        rates = ", ".join(map(str, provider.rates))
        raise Refused(
            400,
            "bad_parameter",
            f"the stream's audio is not understood; use {forms} at {rates} Hz, one channel",
        )
    secret = credentials.from_parameters(value_at(message, provider.parameters))
    return Start(stream, encoding, name, rate, secret)


def _whole(value: object) -> int | None:
    """A whole number, which some providers write as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None

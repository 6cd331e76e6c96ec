"""The protocol as the life of a call sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fastapi import APIRouter

from kaiwa import reasons
from kaiwa.server.channel import Message
from kaiwa.server.protocols.base import (
    Audio,
    CallCodec,
    CallInfo,
    CallRequest,
    Ending,
    Entry,
    Input,
    Reply,
    Services,
    Unknown,
    WireProtocol,
)
from kaiwa.server.protocols.kyutai import messages, routes
from kaiwa.server.protocols.kyutai.request import parse_query
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, TextEvent

PATH = "/api/chat"
#: Longest payload of a ping that is sent back, in bytes.
ECHOED_PING = 64

_UNKNOWN = (Unknown(),)


class KyutaiProtocol(WireProtocol):
    """Kyutai's protocol, with Kaiwa's additions for clients that ask for them."""

    name = "kyutai"
    paths = (PATH,)

    def codec(self) -> CallCodec:
        """What translates for a new connection."""
        return KyutaiCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        """Routes for monitoring that was made for Kyutai's server."""
        routes.add(router, services, PATH)


class KyutaiCodec(CallCodec):
    """Translates for one connection."""

    def __init__(self) -> None:
        self._is_kaiwa_client = False
        self._is_pcm = False

    async def open(self, entry: Entry) -> CallRequest:
        """Everything is said in the address."""
        await entry.authorize()
        query = parse_query(entry.query)
        self._is_kaiwa_client = query.is_kaiwa_client
        return query.request

    def admitted(self, request: CallRequest) -> None:
        """In which form audio is."""
        self._is_pcm = request.transport == "pcm"

    def decode(self, message: Message) -> Iterable[Input]:
        """What a message means. Control, metadata, text and error of clients have no effect."""
        if not message or isinstance(message, str):
            return _UNKNOWN
        kind, payload = messages.split(message)
        if kind == messages.AUDIO:
            if not payload:
                return ()
            return (Audio(messages.samples(payload) if self._is_pcm else payload),)
        if kind == messages.PING:
            if payload and self._is_kaiwa_client and len(payload) <= ECHOED_PING:
                return (Reply((messages.ping(payload),)),)
            return ()
        return _UNKNOWN if kind > messages.PING else ()

    def started(self, info: CallInfo) -> Iterable[Message]:
        """The handshake, then the metadata: some clients want the handshake to be the first
        message (docs/spec/protocols.md 1.3)."""
        return (messages.handshake(), messages.metadata(messages.call_metadata(info)))

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """Audio and text; states only for Kaiwa's own clients, others do not know them."""
        if isinstance(event, AudioEvent):
            return (messages.audio(messages.pcm(event.pcm) if self._is_pcm else event.data),)
        if isinstance(event, TextEvent):
            return (messages.text(event.text),)
        if self._is_kaiwa_client:
            return (messages.metadata({"state": event.state, "position": event.position}),)
        return ()

    def keepalive(self, *, started: bool) -> Message | None:
        """A ping; before the handshake only for Kaiwa's own clients."""
        return messages.ping() if started or self._is_kaiwa_client else None

    def end(self, reason: str, message: str) -> Ending:
        """The sentence as an error message, unless the client ended the call itself."""
        told = (messages.error(message),) if message and not reasons.is_silent(reason) else ()
        return replace(super().end(reason, message), messages=told)

    def refuse(self, refused: Refused) -> Ending:
        """The sentence as an error message."""
        return replace(super().refuse(refused), messages=(messages.error(refused.message),))

"""The protocol as the life of a call sees it: the audio of one file in, words out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from fastapi import APIRouter

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
    Input,
    Services,
    WireProtocol,
)
from kaiwa.server.protocols.transcriptions import routes
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, StepEvent, TextEvent, TranscriptEvent
from kaiwa.words import WordEvent


class TranscriptionsProtocol(WireProtocol):
    """OpenAI's transcriptions. A request leads a call over a channel of its own (`upload`)."""

    name = "transcriptions"
    task = "transcription"
    cross_origin = {routes.PATH: ("POST",)}  # noqa: RUF012
    uploads = {routes.PATH: routes.MOST_BODY}  # noqa: RUF012

    def codec(self) -> CallCodec:
        """What translates for a new request."""
        return FileCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        """The route."""
        routes.add(router, services, self)


class FileCodec(CallCodec):
    """Translates between the channel of one request and its call: samples as binary messages, an
    empty one at the end; events as JSON."""

    async def open(self, entry: Entry) -> CallRequest:
        """Lets a caller with a key and a chance of a slot in, and waits for the file."""
        await entry.authorize(openai.with_key(entry.headers))
        entry.check_room()
        await entry.accept()
        # The file has arrived and is audio. How long that may take the server's guards say.
        await entry.receive()
        return CallRequest(realtime=False)

    def decode(self, message: Message) -> Iterable[Input]:
        """Samples, or the end of the file."""
        if not message or isinstance(message, str):
            return (Finish(),)
        return (Audio(np.frombuffer(message, np.float32)),)

    def started(self, info: CallInfo) -> Iterable[Message]:
        """The file has its slot."""
        return (json.dumps({"type": "started"}),)

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """Nothing."""
        return ()

    def transcribed(self, events: Sequence[TranscriptEvent]) -> Iterable[Message]:
        """Words and their ends."""
        for event in events:
            if isinstance(event, WordEvent):
                yield json.dumps({"type": "word", "text": event.text, "start": event.start})
            elif not isinstance(event, StepEvent):
                yield json.dumps({"type": "word_end", "stop": event.stop})

    def end(self, reason: str, message: str) -> Ending:
        """The sentence, for the answer."""
        told = (json.dumps({"type": "end", "message": message}),)
        return replace(super().end(reason, message), messages=told)

    def refuse(self, refused: Refused) -> Ending:
        """Refusals are kept by the channel (`UploadChannel.deny`), or told in words here."""
        told = (json.dumps({"type": "end", "message": refused.message}),)
        return replace(super().refuse(refused), messages=told)

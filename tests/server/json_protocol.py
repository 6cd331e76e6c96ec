"""A wire protocol as small as one can be: JSON in text messages, the request in the first."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from kaiwa.server.channel import Message
from kaiwa.server.protocols import base
from kaiwa.server.protocols.base import CallInfo, CallRequest, Ending, Entry, Input, Services
from kaiwa.server.protocols.kyutai.messages import pcm, samples
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, TextEvent


class JsonProtocol(base.WireProtocol):
    name = "json"
    paths = ("/test/json",)
    dialects = ("json_old",)

    def codec(self) -> base.CallCodec:
        return JsonCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        @router.get("/test/slots")
        async def slots() -> int:
            return services.info().slots_total

        @router.get("/test/name")
        async def name(request: Request) -> str:
            query = request.query_params
            return (await services.authorize(request.headers, query, self.name)).name


class JsonCodec(base.CallCodec):
    async def open(self, entry: Entry) -> CallRequest:
        await entry.authorize()
        entry.check_room()
        await entry.accept()
        try:
            first = json.loads(await asyncio.wait_for(entry.receive(), 5))
        except (ValueError, asyncio.TimeoutError):
            raise Refused(400, "bad_parameter", "begin with a JSON object") from None
        self.label = first.get("dialect")
        return CallRequest(seed=first.get("seed"), realtime=False, transport="pcm")

    def decode(self, message: Message) -> Iterable[Input]:
        given: dict[str, Any] = json.loads(message)
        if given["type"] == "audio":
            yield base.Audio(samples(base64.b64decode(given["audio"])))
        elif given["type"] == "echo":
            yield base.Reply((message, message))
        elif given["type"] == "pause":
            yield base.Pause(given["paused"])
        elif given["type"] == "finish":
            yield base.Finish()
        elif given["type"] == "hang up":
            yield base.HangUp()
        else:
            yield base.Unknown()

    def started(self, info: CallInfo) -> Iterable[Message]:
        yield json.dumps({"type": "started", "protocol": info.protocol, "seed": info.seed})

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        if isinstance(event, AudioEvent):
            audio = base64.b64encode(pcm(event.pcm)).decode()
            yield json.dumps({"type": "audio", "audio": audio})
        elif isinstance(event, StateEvent):
            yield json.dumps({"type": event.state})

    def notice(self, seconds: float) -> Iterable[Message]:
        yield json.dumps({"type": "notice", "seconds": seconds})

    def end(self, reason: str, message: str) -> Ending:
        last = json.dumps({"type": "end", "message": message})
        return replace(super().end(reason, message), messages=(last,))

    def refuse(self, refused: Refused) -> Ending:
        last = json.dumps({"type": "refused", "message": refused.message})
        return replace(super().refuse(refused), messages=(last,))

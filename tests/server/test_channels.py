"""A transport that is no websocket: opened over HTTP, its messages carried by something else, as
WebRTC is. The life of a call does not see the difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Request
from tests.server.json_protocol import JsonCodec
from tests.server.live import Live, eventually, running

from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.protocols.base import CallCodec, CallRequest, Entry, Services, WireProtocol
from kaiwa.server.refusal import Refused


class Pipe(Channel):
    """Both ends in this process."""

    def __init__(self, request: Request) -> None:
        self.headers, self.query, self.path = request.headers, request.query_params, "/test/offer"
        self.answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.to_server: asyncio.Queue[Message | None] = asyncio.Queue()
        self.to_client: list[Message] = []
        self.closed: tuple[int, str] | None = None

    @property
    def accepted(self) -> bool:
        return self.answered.done()

    @property
    def open(self) -> bool:
        return self.accepted and self.closed is None

    async def accept(self, subprotocol: str | None = None) -> None:
        self.answered.set_result("answer")

    async def deny(self, refused: Refused) -> bool:
        self.answered.set_exception(refused)
        return True

    async def receive(self) -> Message:
        message = await self.to_server.get()
        if message is None:
            raise Disconnected
        return message

    async def send(self, message: Message) -> None:
        self.to_client.append(message)

    async def close(self, code: int, reason: str) -> None:
        self.closed = code, reason

    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        self.closed = code, reason

    def abort(self) -> None:
        self.to_server.put_nowait(None)


class OfferProtocol(WireProtocol):
    """Calls begin with a POST, whose answer is given once the call is let in."""

    name = "offer"

    def __init__(self) -> None:
        self.pipes: list[Pipe] = []
        self.calls: set[asyncio.Task[None]] = set()

    def codec(self) -> CallCodec:
        return OfferCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        @router.post("/test/offer")
        async def offer(request: Request) -> str:
            pipe = Pipe(request)
            self.pipes.append(pipe)
            self.calls.add(asyncio.create_task(services.run_call(self, pipe)))
            return await pipe.answered


class OfferCodec(JsonCodec):
    async def open(self, entry: Entry) -> CallRequest:
        await entry.authorize()
        if "bad" in entry.query:
            raise Refused(400, "bad_parameter", "this is no offer")
        return CallRequest(realtime=False)


@pytest.fixture
def offering() -> Iterator[tuple[Live, OfferProtocol]]:
    protocol = OfferProtocol()
    with running(protocols=(protocol,)) as live:
        yield live, protocol


def kinds(pipe: Pipe) -> list[Any]:
    return [json.loads(message)["type"] for message in pipe.to_client]


async def test_a_call_over_something_else(offering: tuple[Live, OfferProtocol]) -> None:
    live, protocol = offering
    answer = await asyncio.to_thread(live.ask, "/test/offer", "POST")
    assert (answer.status, answer.json) == (200, "answer")
    (pipe,) = protocol.pipes
    await eventually(lambda: "started" in kinds(pipe))
    (row,) = live.ask("/v1/sessions").json["sessions"]
    assert row["protocol"] == "offer"
    live.loop.call_soon_threadsafe(pipe.to_server.put_nowait, json.dumps({"type": "finish"}))
    await eventually(lambda: pipe.closed)
    assert pipe.closed == (1000, "finished")


async def test_its_loss_ends_the_call(offering: tuple[Live, OfferProtocol]) -> None:
    live, protocol = offering
    await asyncio.to_thread(live.ask, "/test/offer", "POST")
    (pipe,) = protocol.pipes
    await eventually(lambda: "started" in kinds(pipe))
    live.loop.call_soon_threadsafe(pipe.abort)
    ended = 'kaiwa_conversations_ended_total{protocol="offer",reason="client"}'
    await eventually(lambda: live.metric(ended) == 1)


async def test_a_refusal_is_the_answer_to_the_request(
    offering: tuple[Live, OfferProtocol],
) -> None:
    live, _ = offering
    answer = await asyncio.to_thread(live.ask, "/test/offer?bad=1", "POST")
    assert (answer.status, answer.json["error"]["code"]) == (400, "bad_parameter")

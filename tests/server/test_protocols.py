"""A protocol that the server does not come with: what every protocol gets by being one."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import MakeKey
from tests.server.json_protocol import JsonCodec, JsonProtocol
from tests.server.live import Live, eventually, running
from tests.server.wire import FRAME, call, from_pcm16, pcm16, refusal, tone
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from kaiwa.server.call import call as calls
from kaiwa.server.call import slow_client
from kaiwa.server.protocols.base import CallCodec, CallRequest, Entry
from kaiwa.server.protocols.registry import PROTOCOLS

BOTH = (*PROTOCOLS, JsonProtocol())


@pytest.fixture(scope="module")
def both() -> Iterator[Live]:
    """A server that speaks the small protocol beside its own."""
    with running(protocols=BOTH) as live:
        yield live


class Talk:
    """A client of the small protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, kind: str, **values: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **values}))

    async def hear(self) -> Any:
        return json.loads(await self.socket.recv())

    async def find(self, kind: str) -> Any:
        """The next message of a type."""
        while (heard := await self.hear())["type"] != kind:
            pass
        return heard

    async def gone(self) -> tuple[int, str]:
        """Reads to the end; gives close code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.hear()
        return self.socket.close_code or 0, self.socket.close_reason or ""


@asynccontextmanager
async def talk(live: Live, **first: Any) -> AsyncIterator[Talk]:
    """A call that has its slot."""
    async with connect(f"ws://127.0.0.1:{live.port}/test/json", proxy=None) as socket:
        made = Talk(socket)
        await socket.send(json.dumps(first))
        yield made


async def test_a_call_through_a_protocol_that_the_server_does_not_know(both: Live) -> None:
    sound = tone(5)
    async with talk(both, seed=7) as client:
        assert await client.find("started") == {"type": "started", "protocol": "json", "seed": 7}
        for at in range(0, len(sound), FRAME):
            audio = base64.b64encode(pcm16(sound[at : at + FRAME])).decode()
            await client.say("audio", audio=audio)
        answers = [await client.find("audio") for _ in range(5)]
        heard = from_pcm16([base64.b64decode(answer["audio"]) for answer in answers])
        np.testing.assert_allclose(heard, sound, atol=2e-4)
        (row,) = both.ask("/v1/sessions").json["sessions"]
        assert (row["protocol"], row["state"]) == ("json", "active")
        assert both.metric('kaiwa_conversations_active{protocol="json"}') == 1
        assert both.metric('kaiwa_conversations_active{protocol="kyutai"}') == 0
        await client.say("finish")
        assert await client.gone() == (1000, "finished")
    await eventually(lambda: both.quiet)
    assert both.metric('kaiwa_conversations_active{protocol="json"}') == 0
    assert both.metric('kaiwa_conversations_started_total{protocol="json"}') == 1
    assert both.metric('kaiwa_conversations_ended_total{protocol="json",reason="finished"}') == 1
    assert both.metric('kaiwa_ws_messages_total{direction="in",protocol="json"}') == 6


async def test_each_protocol_has_calls_of_its_own(both: Live) -> None:
    async with talk(both) as client, call(both.url()):
        await client.find("started")
        rows = both.ask("/v1/sessions").json["sessions"]
        assert sorted(row["protocol"] for row in rows) == ["json", "kyutai"]
        for name in ("json", "kyutai"):
            assert both.metric(f'kaiwa_conversations_active{{protocol="{name}"}}') == 1


async def test_the_messages_of_an_answer_stay_together(both: Live) -> None:
    async with talk(both) as client:
        await client.find("started")
        for number in range(20):
            await client.say("audio", audio=base64.b64encode(pcm16(tone(1))).decode())
            await client.say("echo", number=number)
        kinds = [(await client.hear())["type"] for _ in range(60)]
        at = [index for index, kind in enumerate(kinds) if kind == "echo"]
        assert len(at) == 40
        assert all(second == first + 1 for first, second in zip(at[::2], at[1::2], strict=True))


async def test_a_call_stands_still_and_goes_on(both: Live) -> None:
    async with talk(both) as client:
        await client.find("started")
        await client.say("pause", paused=True)
        assert await client.hear() == {"type": "paused"}
        await client.say("pause", paused=False)
        assert await client.hear() == {"type": "active"}


async def test_a_dialect_is_counted_and_listed_by_its_own_name(both: Live) -> None:
    started = 'kaiwa_conversations_started_total{protocol="json_old"}'
    before = both.metric(started)
    async with talk(both, dialect="json_old") as client:
        await client.find("started")
        (row,) = both.ask("/v1/sessions").json["sessions"]
        assert row["protocol"] == "json_old"
        assert both.metric('kaiwa_conversations_active{protocol="json_old"}') == 1
        assert both.metric('kaiwa_conversations_active{protocol="json"}') == 0
    assert both.metric(started) == before + 1


async def test_clients_are_told_before_the_server_ends_their_calls() -> None:
    with running(protocols=BOTH, drain_seconds=25) as live:
        async with talk(live) as client, call(live.url()):
            await client.find("started")
            live.drain()
            # 25 s are less than the 30 before the end at which clients are told.
            assert 20 < (await client.find("notice"))["seconds"] <= 25
            await client.say("hang up")
            assert await client.gone() == (1000, "client")


async def test_hanging_up_is_the_clients_own_end(both: Live) -> None:
    async with talk(both) as client:
        await client.find("started")
        await client.say("hang up")
        assert await client.gone() == (1000, "client")


async def test_messages_without_a_meaning_end_the_call(
    both: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GARBAGE", 3)
    async with talk(both) as client:
        await client.find("started")
        for _ in range(3):
            await client.say("nonsense")
        assert "mean nothing" in (await client.find("end"))["message"]
        assert await client.gone() == (1003, "garbage")


async def test_who_was_accepted_is_refused_by_messages(both: Live) -> None:
    async with connect(f"ws://127.0.0.1:{both.port}/test/json", proxy=None) as socket:
        await socket.send("not JSON")
        client = Talk(socket)
        assert (await client.hear())["type"] == "refused"
        assert await client.gone() == (1008, "bad_parameter")
    rejected = 'kaiwa_admission_rejected_total{protocol="json",reason="bad_request"}'
    assert both.metric(rejected) == 1


async def test_a_key_may_be_for_one_protocol(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one", protocols=("kyutai",))
    with running(protocols=BOTH, keys=str(key_path)) as live:
        url = f"ws://127.0.0.1:{live.port}/test/json"
        status, error, _ = await refusal(url, Authorization=f"Bearer {key}")
        assert (status, error["code"]) == (403, "not_for_this_key")
        headers = {"Authorization": f"Bearer {key}"}
        async with call(live.url(), additional_headers=headers):
            pass
        # The same for the routes of a protocol, and by name where the key is for it.
        assert live.ask("/test/name", key=key).status == 403
        other = make_key("other", protocols=("json",))
        assert live.ask("/test/name", key=other).json == "other"
        assert live.ask("/test/name").status == 401


class Offered(JsonProtocol):
    """Reads nothing before the call accepts, with a subprotocol."""

    name = "offered"
    paths = ("/test/offered",)

    def codec(self) -> CallCodec:
        return OfferedCodec()


class OfferedCodec(JsonCodec):
    async def open(self, entry: Entry) -> CallRequest:
        await entry.authorize()
        if "offered" in entry.headers.get("sec-websocket-protocol", ""):
            self.subprotocol = "offered"
        return CallRequest()


async def test_a_subprotocol_is_answered_if_it_was_offered() -> None:
    with running(protocols=(Offered(),)) as live:
        url = f"ws://127.0.0.1:{live.port}/test/offered"
        offered = connect(url, proxy=None, subprotocols=[Subprotocol("offered")])
        async with offered as with_one, connect(url, proxy=None) as without:
            assert (with_one.subprotocol, without.subprotocol) == ("offered", None)


async def test_a_server_without_room_says_so_before_the_first_message() -> None:
    with running(protocols=BOTH, slots=1, queue=0) as live:
        async with call(live.url()):
            status, error, _ = await refusal(f"ws://127.0.0.1:{live.port}/test/json")
            assert (status, error["code"]) == (503, "full")


def test_routes_come_with_a_protocol(both: Live, echo: Live) -> None:
    assert both.ask("/test/slots").json == both.state.settings.slots
    assert both.ask("/test/json").status == 426
    assert echo.ask("/test/slots").status == 404
    assert echo.ask("/test/json").status == 404


async def test_a_protocol_that_is_not_spoken_is_not_there(echo: Live) -> None:
    with pytest.raises(Exception, match="404"):
        async with talk(echo):
            pass


@pytest.mark.parametrize(
    ("behind", "resumable", "action"),
    [
        (0.9, True, "SEND"),
        (1.1, True, "HOLD_BACK"),
        (5.1, True, "DROP"),
        (5.1, False, "HOLD_BACK"),
        (8.1, False, "END"),
    ],
)
def test_what_becomes_of_a_client_that_is_behind(
    behind: float, resumable: bool, action: str
) -> None:
    assert slow_client.action(behind, resumable=resumable).name == action

"""A client and a server that does as it is told."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import numpy as np
import pytest
from tests.client.server import serving, until

from kaiwa.client import Audio, ChatClient, ChatParams, Error, Event, Metadata, Ping, Text, connect
from kaiwa.errors import InputError, ServerError
from kaiwa.reasons import sentence_of
from kaiwa.synth import voice

FRAMES = np.split(voice(0.4), 5)


async def audio(chat: ChatClient, count: int) -> list[Audio]:
    """The next `count` audio events."""
    found: list[Audio] = []
    async for event in chat:
        if isinstance(event, Audio):
            found.append(event)
            if len(found) == count:
                break
    return found


async def collect(chat: ChatClient, events: list[Event]) -> None:
    """All events up to the end."""
    async for event in chat:
        events.append(event)


@pytest.mark.parametrize("audio_format", ["pcm", "opus"])
async def test_what_is_sent_comes_back(audio_format: Any) -> None:
    async with serving() as server, connect(server.url, format=audio_format) as chat:
        for frame in FRAMES:
            assert await chat.send_pcm(frame)
        events = await audio(chat, 5)
        assert sum(len(event.pcm) for event in events) == 5 * 1920
        assert chat.metadata["session_id"] == "a1b2"
        if audio_format == "pcm":
            got = np.concatenate([event.pcm for event in events])
            np.testing.assert_allclose(got, np.concatenate(FRAMES), atol=1e-4)
        await chat.close()
        assert chat.close_code == 1000
        assert [event async for event in chat] == []
        assert not await chat.send_pcm(FRAMES[0])


async def test_key_parameters_and_format_reach_the_server() -> None:
    params = ChatParams(text_topk=5, audio_temperature=0.5, seed=0, extra={"worker": "x y"})
    async with serving() as server:
        url = server.url.removeprefix("ws://").removesuffix("/api/chat")
        async with connect(url, key="kw_1", token="t", format="pcm", params=params):
            pass
        query = {name: values[0] for name, values in server.queries[0].items()}
        assert query == {
            "text_topk": "5",
            "audio_temperature": "0.5",
            "seed": "0",
            "worker": "x y",
            "client": "kaiwa",
            "format": "pcm",
            "token": "t",
        }
        assert server.headers[0]["Authorization"] == "Bearer kw_1"


@pytest.mark.parametrize("greeting", [b"\0", bytes(9)])
async def test_handshakes(greeting: bytes) -> None:
    async with serving(handshake=greeting) as server, connect(server.url) as chat:
        assert chat.handshake is not None
        assert chat.handshake.protocol == 0


async def test_positions_in_the_queue_are_told() -> None:
    positions: list[int | None] = []
    async with (
        serving(queue=(3, 2, 1)) as server,
        connect(server.url, on_queue=positions.append),
    ):
        pass
    assert positions == [3, 2, 1]


async def test_what_comes_before_the_handshake_is_kept() -> None:
    early = (b'\x04{"instance_name": "x"}', b"\x06")
    async with serving(before=early, close=(1000, ""), end=0) as server:
        async with connect(server.url) as chat:
            events = [event async for event in chat]
        assert isinstance(events[0], Metadata)
        assert events[0].values == {"instance_name": "x"}
        assert isinstance(events[1], Ping)
        assert chat.metadata["instance_name"] == "x"
        assert chat.metadata["model"] == "echo"


async def test_messages_that_mean_nothing_are_counted() -> None:
    noise = (b"", "a text frame", b"\x03\x01", b"\xffzz", b"\x04no json", b"\x02 word")
    async with serving(after=noise, close=(1000, ""), end=0) as server:
        async with connect(server.url) as chat:
            events = [event async for event in chat]
        assert chat.ignored == 5
        assert [event.text for event in events if isinstance(event, Text)] == [" word"]


async def test_no_slot_in_time() -> None:
    async with serving(handshake=None) as server:
        with pytest.raises(ServerError, match=r"no slot in 0\.05 s") as caught:
            async with connect(server.url, timeout=0.05):
                pass
    assert caught.value.code == "timeout"


REFUSALS = [
    ((503, "full", "All slots are taken.", {"Retry-After": "7"}), 7.0, "try again in 7 s"),
    ((503, "draining", "Shutting down.", {}), 5.0, "Shutting down"),
    ((503, "failed", "", {}), 10.0, "the engine has failed"),
    ((503, "stuck", "", {}), 10.0, "the server does not answer at present"),
    ((503, "of_a_proxy", "", {}), 5.0, "takes no more calls now"),
    ((429, "key_concurrency", "Two calls at once.", {"Retry-After": "x"}), 5.0, "Two calls"),
    ((401, "unknown_key", "The key is unknown.", {}), None, "KAIWA_KEY"),
    ((400, "bad_parameter", "seed is no number.", {}), None, "seed is no number"),
]


@pytest.mark.parametrize(("refusal", "retry", "says"), REFUSALS)
async def test_refusals(refusal: Any, retry: float | None, says: str) -> None:
    async with serving(refusal=refusal) as server:
        with pytest.raises(ServerError, match=says) as caught:
            async with connect(server.url, token="secret"):
                pass
    error = caught.value
    assert (error.code, error.status, error.retry) == (refusal[1], refusal[0], retry)
    assert "secret" not in str(error)


async def plain_http(answer: bytes) -> asyncio.Server:
    """A server that says `answer` to everything."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(reply, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "not_found", "no Moshi server"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n[]", "unauthorized", "KAIWA_KEY"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "http_200", "check the address"),
        (b"220 mail.example ESMTP\r\n\r\n", "unreachable", "does not speak websocket"),
    ],
)
async def test_servers_of_another_kind(answer: bytes, code: str, says: str) -> None:
    server = await plain_http(answer)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerError, match=says) as caught:
            await ChatClient.open(f"127.0.0.1:{port}")
    assert caught.value.code == code


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServerError, match="kaiwa serve") as caught:
        await ChatClient.open(f"127.0.0.1:{port}")
    assert caught.value.code == "unreachable"


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        with pytest.raises(ServerError, match="in time"):
            await ChatClient.open(f"127.0.0.1:{port}", timeout=0.05)


CLOSES = [
    ((1008, "slow_consumer"), "You read too slowly.", "slow_consumer", None),
    ((1013, "overloaded"), "Too much load.", "overloaded", 5.0),
    ((1012, "drain"), None, "drain", 5.0),
    ((1008, "of_a_proxy"), None, "of_a_proxy", None),
    ((1011, ""), None, "close_1011", 5.0),
    (None, None, "lost", 5.0),
]


@pytest.mark.parametrize(("close", "said", "code", "retry"), CLOSES)
async def test_ends_that_are_errors(
    close: Any, said: str | None, code: str, retry: float | None
) -> None:
    async with serving(close=close, error=said, end=1) as server, connect(server.url) as chat:
        await chat.send_pcm(FRAMES[0])
        events: list[Event] = []
        says = said or (sentence_of(code) if close else "") or code
        with pytest.raises(ServerError, match=re.escape(says.rstrip("."))) as caught:
            await collect(chat, events)
        assert (caught.value.code, caught.value.retry) == (code, retry)
        assert (chat.close_code, chat.error) == (close[0] if close else 1006, said)
        assert sum(isinstance(event, Error) for event in events) == (said is not None)
        if close:
            assert sum(isinstance(event, Audio) for event in events) == 1


async def test_a_normal_end() -> None:
    async with (
        serving(close=(1000, "expired"), error="Time is over.", end=0) as server,
        connect(server.url) as chat,
    ):
        assert any(isinstance(event, Error) for event in [e async for e in chat])
        assert (chat.close_code, chat.close_reason) == (1000, "expired")


async def test_an_end_before_the_handshake() -> None:
    async with serving(handshake=None, error="Full.", close=(1013, "full"), end=0) as server:
        with pytest.raises(ServerError, match="Full") as caught:
            async with connect(server.url):
                pass
    assert caught.value.code == "full"


async def test_our_ping_measures_the_way_there_and_back() -> None:
    async with serving() as server, connect(server.url) as chat:
        await chat.ping()
        async for event in chat:
            if isinstance(event, Ping):
                break
        assert chat.round_trip is not None
        assert 0 < chat.round_trip < 1


async def test_without_decoding() -> None:
    async with serving() as server, connect(server.url, format="pcm", decode=False) as chat:
        await chat.send_pcm(FRAMES[0])
        (event,) = await audio(chat, 1)
        assert len(event.pcm) == 0
        assert len(event.payload) == 3840


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel"])
async def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(InputError, match="key"):
        await ChatClient.open("127.0.0.1:1", key=key)


async def test_samples_are_checked() -> None:
    async with serving() as server, connect(server.url, format="pcm") as chat:
        with pytest.raises(InputError, match="float32"):
            await chat.send_pcm(np.zeros(10))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="nan"):
            await chat.send_pcm(np.full(10, np.nan, np.float32))


async def test_the_server_sees_a_clean_close() -> None:
    async with serving() as server:
        async with connect(server.url):
            pass
        await until(lambda: server.codes)
        assert server.codes == [1000]


def test_the_error_survives_a_pickle() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ServerError("no", code="full", retry=2.0, status=503)))
    assert (str(error), error.code, error.retry, error.status) == ("no", "full", 2.0, 503)

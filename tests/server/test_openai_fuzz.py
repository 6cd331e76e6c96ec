"""Whatever a client of OpenAI's protocols sends: the server lives, its slots are freed, and others'
calls go on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.live import Live, eventually, running
from tests.server.openai_calls import live_session, talk
from websockets.exceptions import ConnectionClosed

LIVE, REALTIME = "/v1/live/sessions", "/v1/realtime"
START = json.dumps({"type": "session.start", "session": {"model": "gpt-live-1"}})

#: Names of events that a client of either may send, and members that they may have.
KINDS = {
    LIVE: (
        "session.start", "session.update", "session.input_audio.append", "session.input_audio.mute",
        "session.input_audio.unmute", "session.instructions.append", "response.create",
    ),
    REALTIME: (
        "session.update", "input_audio_buffer.append", "input_audio_buffer.commit",
        "input_audio_buffer.clear", "output_audio_buffer.clear", "conversation.item.create",
        "conversation.item.retrieve", "conversation.item.delete", "conversation.item.truncate",
        "response.create", "response.cancel",
    ),
}  # fmt: skip
MEMBERS = (
    "session", "audio", "item", "item_id", "previous_item_id", "response", "response_id",
    "content_index", "audio_end_ms", "event_id", "content", "format", "input", "output", "type",
    "turn_detection", "rate", "metadata", "role", "voice", "delegation", "threshold",
    "silence_duration_ms", "prefix_padding_ms", "input_audio_format", "output_audio_format",
)  # fmt: skip
WORDS = (
    "message", "user", "assistant", "input_text", "audio/pcm", "audio/pcmu", "server_vad",
    "realtime", "gpt-live-1", "root", "pcm16", "", "AAAA", "\ud800", "\0", "x" * 5000,
)  # fmt: skip


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can hold."""
    kind = rng.randrange(10 if depth < 4 else 7)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return rng.choice((0, -1, 24_000, 8000, 1 << 70, -(1 << 63), 1e308, 1e-320, 0.5))
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.choice((float("nan"), float("inf")))
    if kind in (4, 5, 6):
        return base64.b64encode(rng.randbytes(rng.choice((0, 1, 3, 640, 3841)))).decode()
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(MEMBERS): value(rng, depth + 1) for _ in range(rng.randrange(6))}


def message(rng: random.Random, path: str) -> str | bytes:
    """A message, more or less of the protocol."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return json.dumps(value(rng))
    event = {rng.choice(MEMBERS): value(rng) for _ in range(rng.randrange(5))}
    text = json.dumps({**event, "type": rng.choice(KINDS[path])})
    if kind == 2:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('{}[]",:x\\') + text[at + rng.randrange(3) :]
    if kind == 3:
        return text.encode()
    return text


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with running(slots=8) as live:
        yield live


async def attack(server: Live, path: str, messages: list[str | bytes], *, wait: float = 0.2) -> int:
    """Sends messages on one connection, reading what comes; gives the close code, or 0 if there is
    none after so many seconds."""
    async with talk(server, path) as client:
        reading = asyncio.create_task(client.gone(60))
        with contextlib.suppress(ConnectionClosed):
            if path == LIVE:
                await client.socket.send(START)
            for each in messages:
                await client.socket.send(each)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), wait)
        reading.cancel()
        return client.socket.close_code or 0


async def unharmed(server: Live) -> None:
    """Somebody else's call goes on, and what the attackers had is free."""
    async with live_session(server) as other:
        await other.find("session.output_audio.delta")
    await eventually(lambda: server.quiet, "all slots free")
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize("path", [LIVE, REALTIME])
@pytest.mark.parametrize("seed", range(6))
async def test_events_of_any_kind(server: Live, path: str, seed: int) -> None:
    rng = random.Random(f"{path} {seed}")
    await attack(server, path, [message(rng, path) for _ in range(150)])
    await unharmed(server)


@pytest.mark.parametrize("path", [LIVE, REALTIME])
@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("binary", [bytes(range(256))] * 200),
        ("not JSON", ["{"] * 200),
        ("numbers of many digits", ["9" * 100_000] * 120),
    ],
)
async def test_garbage_ends_the_call(
    server: Live, path: str, name: str, messages: list[str | bytes]
) -> None:
    assert await attack(server, path, messages, wait=20) == 1003, name
    await unharmed(server)


@pytest.mark.parametrize("path", [LIVE, REALTIME])
async def test_nesting_and_size(server: Live, path: str) -> None:
    append = {LIVE: "session.input_audio.append", REALTIME: "input_audio_buffer.append"}[path]
    await attack(server, path, ["[" * 100_000, '{"a":' * 100_000])
    huge = base64.b64encode(bytes(700_000)).decode()
    await attack(server, path, [json.dumps({"type": append, "audio": huge})] * 3)
    # A message over 1 MiB.
    assert await attack(server, path, ["x" * (1 << 20) + "x"], wait=20) == 1009
    await unharmed(server)


@pytest.mark.parametrize("path", [LIVE, REALTIME])
async def test_a_flood_is_cut_off(server: Live, path: str) -> None:
    payload = b'{"type":"x"}'
    # Masked with zeros, and all at once.
    frame = bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload
    async with talk(server, path) as client:
        await client.socket.send(START)
        client.socket.transport.write(frame * 20_000)
        assert await client.gone() == (1008, "flood")
    await unharmed(server)


@pytest.mark.parametrize("path", [LIVE, REALTIME])
async def test_audio_faster_than_time_ends_the_call(server: Live, path: str) -> None:
    append = {LIVE: "session.input_audio.append", REALTIME: "input_audio_buffer.append"}[path]
    second = base64.b64encode(bytes(48_000)).decode()
    messages: list[str | bytes] = [json.dumps({"type": append, "audio": second})] * 30
    assert await attack(server, path, messages, wait=20) == 1008
    await unharmed(server)


async def test_items_without_number_take_bounded_memory(server: Live) -> None:
    item = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "x" * 50_000}],
    }
    create = json.dumps({"type": "conversation.item.create", "item": item})
    async with talk(server, REALTIME) as client:
        for _ in range(100):
            await client.socket.send(create)
            await client.find("conversation.item.done")
        first = client.of("conversation.item.added")[0]["item"]["id"]
        await client.say("conversation.item.retrieve", item_id=first)
        await client.find("error")
    await unharmed(server)


async def test_silent_connections_hold_nothing(server: Live) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(talk(server, LIVE))
        assert server.engine.readiness.slots_used == 0
        await live_ok(server)
    await unharmed(server)


async def live_ok(server: Live) -> None:
    async with live_session(server) as other:
        await other.find("session.output_audio.delta")

"""Streams of phone calls that are broken or mean harm: the server goes on, frees everything, does
not grow, and others hear nothing of it.

Every attack is a function of a seed. `KAIWA_FUZZ_ROUNDS=N` does N times as many, and with 2 or more
it is also looked at whether memory stops growing, which takes minutes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.server.live import Program, eventually, program
from tests.server.openai_calls import paced
from tests.server.phone import PROVIDERS
from tests.server.test_fuzz import ENDS, ROUNDS, stops_growing
from tests.server.wire import Call, call, pcm16, tone
from websockets.asyncio.client import connect

WAVE = 8
SOUND = base64.b64encode(bytes(160)).decode()

Attack = Callable[[random.Random, Any, str], Awaitable[None]]


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of JSON."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice((0, -1, 1 << 70, 1e308, 0.5)),
        lambda: rng.choice(("", "media", "start", "stop", "é\x00", "A" * rng.randrange(9999))),
    ]
    if depth < 4:
        kinds.append(lambda: [anything(rng, depth + 1) for _ in range(rng.randrange(4))])
        kinds.append(lambda: {str(n): anything(rng, depth + 1) for n in range(rng.randrange(4))})
    return rng.choice(kinds)()


def changed(rng: random.Random, message: Any) -> Any:
    """A message in which some value is another."""
    if not isinstance(message, dict) or not message or rng.random() < 0.2:
        return anything(rng)
    key = rng.choice(list(message))
    rest = {name: value for name, value in message.items() if name != key}
    return rest if rng.random() < 0.2 else {**rest, key: changed(rng, message[key])}


def whole_call(provider: str) -> list[Any]:
    words = PROVIDERS[provider]
    media = [words.media(number, SOUND) for number in range(20)]
    marks = [words.mark(f"frame-{12 * number}") for number in range(5)]
    return [*words.greet, words.start({}), *media, *marks, *([words.stop] if words.stop else [])]


async def begin(socket: Any, provider: str) -> None:
    words = PROVIDERS[provider]
    for message in (*words.greet, words.start({})):
        await socket.send(json.dumps(message))


async def wrong_values(rng: random.Random, socket: Any, provider: str) -> None:
    """A whole call in which values are of another kind."""
    for message in whole_call(provider):
        given = changed(rng, message) if rng.random() < 0.3 else message
        await socket.send(json.dumps(given))


async def out_of_order(rng: random.Random, socket: Any, provider: str) -> None:
    """Events of a call in any order, some twice."""
    events = whole_call(provider)
    for message in rng.choices(events, k=60):
        await socket.send(json.dumps(message))


async def broken_text(rng: random.Random, socket: Any, provider: str) -> None:
    """JSON with characters changed or cut off, and text as binary."""
    await begin(socket, provider)
    for message in whole_call(provider):
        text = list(json.dumps(message))
        for _ in range(rng.randrange(4)):
            text[rng.randrange(len(text))] = chr(rng.randrange(0x250))
        made = "".join(text[: rng.randrange(1, len(text) + 1)])
        await socket.send(made.encode() if rng.random() < 0.3 else made)


async def huge(rng: random.Random, socket: Any, provider: str) -> None:
    """Payloads of a megabyte, in base64 and not."""
    await begin(socket, provider)
    words = PROVIDERS[provider]
    for _ in range(rng.randrange(1, 4)):
        size = rng.choice((1000, 100_000, 900_000))
        payload = rng.choice(("A", "!", "é")) * size
        await socket.send(json.dumps(words.media(1, payload)))
    await socket.send("[" * rng.choice((1000, 100_000)))


async def flood(rng: random.Random, socket: Any, provider: str) -> None:
    """Audio and other events a hundred times as fast as they are."""
    await begin(socket, provider)
    messages = [json.dumps(message) for message in whole_call(provider)[2:22]]
    other = json.dumps({"event": "dtmf", "dtmf": {"digit": "1"}})
    for _ in range(rng.randrange(10, 60)):
        for message in messages if rng.random() < 0.5 else [other] * 20:
            await socket.send(message)


async def silence(rng: random.Random, socket: Any, provider: str) -> None:
    """A stream without a start, or with nothing behind it, that is looked at for a moment."""
    if rng.random() < 0.5:
        await begin(socket, provider)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(socket.recv(), 0.5)


ATTACKS: tuple[Attack, ...] = (wrong_values, out_of_order, broken_text, huge, flood, silence)


async def one(rng: random.Random, port: int) -> None:
    provider = rng.choice(list(PROVIDERS))
    url = f"ws://127.0.0.1:{port}/telephony/{provider}"
    with contextlib.suppress(*ENDS):
        async with connect(
            url, proxy=None, compression=None, ping_interval=None, close_timeout=1
        ) as socket:
            with contextlib.suppress(*ENDS):
                await asyncio.wait_for(rng.choice(ATTACKS)(rng, socket, provider), 10)
            if rng.random() < 0.5:
                socket.transport.abort()


async def wave(port: int, seed: int) -> None:
    await asyncio.gather(*(one(random.Random(f"{seed} {n}"), port) for n in range(WAVE)))


def busy(server: Program) -> float:
    return sum(
        server.metric(f'kaiwa_conversations_active{{protocol="{name}"}}') for name in PROVIDERS
    )


async def converse(chat: Call, over: asyncio.Event) -> list[float]:
    """A call of somebody else, at the pace of time; when the answers came. It does not wait for
    each answer: on a busy machine a frame that is late may be dropped, and has none."""
    came: list[float] = []

    async def say(number: int) -> None:
        await chat.say(pcm16(tone(1)))

    speaking = asyncio.create_task(paced(10_000, say))
    try:
        while not over.is_set():
            await chat.frames(1)
            came.append(time.monotonic())
    finally:
        speaking.cancel()
    return came


async def test_attacks_leave_nothing_behind_and_nobody_hears_them() -> None:
    options = ("--slots", 8, "--queue-seconds", 1, "--log-level", "error")
    with program("--model", "synth:echo", *options) as server:
        async with call(server.url(format="pcm")) as other:
            over = asyncio.Event()
            talking = asyncio.create_task(converse(other, over))
            for seed in range(2 * ROUNDS):
                await wave(server.port, seed)
                assert server.ask("/healthz").status == 200
            over.set()
            # It was never cut off, and was answered all the time.
            came = await talking
            gaps = [b - a for a, b in itertools.pairwise(came)]
            longest = 1000 * max(gaps, default=0.0)
            print(f"{len(came)} answers meanwhile, longest gap {longest:.0f} ms")
        await eventually(lambda: busy(server) == 0, "all slots free", 30)

        async def waves() -> None:
            for number in range(2 * ROUNDS):
                await wave(server.port, number)
            await eventually(lambda: busy(server) == 0, "all slots free", 30)

        if ROUNDS > 1:
            await stops_growing(server, waves, 2 * ROUNDS * WAVE)
        assert server.metric("kaiwa_engine_panics_total") == 0
        async with call(server.url(format="pcm")) as well_meaning:
            await well_meaning.say(pcm16(tone(1)))
            await well_meaning.frames(1)
        server.signal()
        assert server.ended(30) == (0, "")

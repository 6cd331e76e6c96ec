"""Clients that mean harm, or are broken: the server goes on, frees everything, and does not grow.

Every attack is a function of a seed. `KAIWA_FUZZ_ROUNDS=N` does N times as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tests.server.live import At, Program, eventually, program
from tests.server.packets import stream
from tests.server.wire import AUDIO, call, headers, page, tone
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

ROUNDS = int(os.environ.get("KAIWA_FUZZ_ROUNDS", "1"))
#: Attacks of one wave, all at once.
WAVE = 40
#: Bytes that an attack may leave. Allocators and caches take hundreds of attacks to fill, and how
#: many differs from run to run; what is lost by every attack never comes to an end.
LOST = 1000
#: Repetitions of the same attacks, after which memory must have stopped growing.
MOST_REPETITIONS = 20
#: What a client meets whose connection is closed on it.
ENDS = (ConnectionClosed, InvalidHandshake, OSError, asyncio.TimeoutError, EOFError)

Attack = Callable[[random.Random, At], Awaitable[None]]

PAGES = stream(tone(25))


def address(at: At, rng: random.Random) -> str:
    query: dict[str, object] = {}
    if rng.random() < 0.3:
        query["resumable"] = 1
    if rng.random() < 0.3:
        query["client"] = "kaiwa"
    if rng.random() < 0.2:
        query["pace"] = "none"
    if rng.random() < 0.2:
        query["format"] = "pcm"
    return at.url(**query)


@contextlib.asynccontextmanager
async def socket(at: At, rng: random.Random) -> Any:
    """A websocket that reads nothing but the beginning, and is closed or cut at random."""
    opened = await connect(
        address(at, rng), proxy=None, close_timeout=1, ping_interval=None, compression=None
    )
    try:
        if rng.random() < 0.8:
            await asyncio.wait_for(opened.recv(), 5)
        yield opened
        if rng.random() < 0.5:
            # At any moment of the call.
            await asyncio.sleep(rng.random() * 0.1)
    finally:
        if rng.random() < 0.5:
            opened.transport.abort()
        with contextlib.suppress(*ENDS):
            await opened.close()


# ---- attacks -----------------------------------------------------------------------------------


async def noise(rng: random.Random, at: At) -> None:
    """Messages of random bytes."""
    async with socket(at, rng) as opened:
        for _ in range(rng.randrange(1, 60)):
            await opened.send(rng.randbytes(rng.choice((0, 1, 2, 30, 2000, 60_000))))


async def broken_ogg(rng: random.Random, at: At) -> None:
    """A real stream with bytes changed, cut, doubled, and in another order."""
    data = bytearray(b"".join(PAGES))
    for _ in range(rng.randrange(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    pieces: list[bytes] = []
    while data and len(pieces) < 120:
        size = rng.choice((1, 7, 40, 300, 4000))
        pieces.append(bytes(data[:size]))
        del data[:size]
    if rng.random() < 0.5:
        rng.shuffle(pieces)
    async with socket(at, rng) as opened:
        for piece in pieces:
            await opened.send(bytes([AUDIO]) + piece)


async def hollow_packets(rng: random.Random, at: At) -> None:
    """Empty packets, packets that say they are longer, pages that say so."""
    async with socket(at, rng) as opened:
        await opened.send(bytes([AUDIO]) + b"".join(headers()))
        for number in range(2, rng.randrange(10, 80)):
            packet = rng.choice((b"", b"\xff", b"\xff" * 255, rng.randbytes(60), bytes(1275)))
            lacing = rng.choice((None, None, b"\xff" * 255, bytes(255), b"\x05"))
            count = rng.choice((1, 1, 1, 50))
            made = page([packet] * min(count, 255 // (len(packet) // 255 + 1)), number)
            if lacing is not None:
                made = page([packet], number, lacing=lacing)
            await opened.send(bytes([AUDIO]) + made)


async def wrong_kinds(rng: random.Random, at: At) -> None:
    """Text frames, types that there are not, types that only servers send."""
    async with socket(at, rng) as opened:
        for _ in range(rng.randrange(1, 120)):
            payload = rng.randbytes(rng.randrange(0, 200))
            if rng.random() < 0.3:
                await opened.send(payload.hex())
            else:
                await opened.send(bytes([rng.randrange(256)]) + payload)


async def giants(rng: random.Random, at: At) -> None:
    """Messages above the limit, whole and in pieces."""
    async with socket(at, rng) as opened:
        if rng.random() < 0.5:
            await opened.send(bytes([AUDIO]) + bytes(rng.choice((1 << 20, 3 << 20))))
        else:
            await opened.send(bytes(1 << 14) for _ in range(200))
        await asyncio.wait_for(opened.wait_closed(), 5)


async def flood(rng: random.Random, at: At) -> None:
    """Audio a hundred times as fast as it is."""
    async with socket(at, rng) as opened:
        for _ in range(8):
            for made in PAGES:
                await opened.send(bytes([AUDIO]) + made)


async def bad_queries(rng: random.Random, at: At) -> None:
    """Parameters of any kind."""
    names = ("seed", "audio_topk", "text_temperature", "format", "resume", "clock", "max_steps")
    values = ("", "-1", "1e400", "nan", "9" * 200, "%00", "é", "realtime", "'", "../..")
    query = {rng.choice(names): rng.choice(values) for _ in range(3)}
    opened = await connect(at.url(**query), proxy=None, close_timeout=1)
    await opened.close()


async def raw(at: At, data: bytes, hold: float = 0.0) -> bytes:
    """Bytes on a bare connection; gives what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        writer.write(data)
        await writer.drain()
        # Some clients say nothing more for a while.
        await asyncio.sleep(hold)
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(reader.read(4096), 0.3)
        return b""
    finally:
        writer.transport.abort()


async def broken_requests(rng: random.Random, at: At) -> None:
    """What is no request, or half of one."""
    upgrade = (
        b"GET /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    )
    await raw(
        at,
        rng.choice(
            (
                rng.randbytes(300),
                upgrade + b"\r\n",
                upgrade + b"Sec-WebSocket-Key: short\r\n\r\n",
                upgrade[: rng.randrange(len(upgrade))],
                b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
                b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
                b"POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00",
                b"",
            )
        ),
        rng.random() * 0.2,
    )


async def broken_frames(rng: random.Random, at: At) -> None:
    """A right handshake, then frames that are none."""
    begin = (
        b"GET /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    frames = (
        rng.randbytes(200),
        b"\x82\x05hello",  # not masked
        b"\x83\x80\0\0\0\0",  # an opcode without a meaning
        b"\xf2\x80\0\0\0\0",  # bits without a meaning
        b"\x09\x80\0\0\0\0",  # a ping in pieces
        b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\0\0\0\0",
        b"\x82\xfe\xff\xff\0\0\0\0" + bytes(100),  # half a message
        b"\x00\x80\0\0\0\0" * 2000,  # pieces of nothing
        b"\x89\x80\0\0\0\0" * 3000,  # pings
        b"\x81\x84\0\0\0\0\xff\xff\xff\xff",  # no UTF-8
    )
    await raw(at, begin + rng.choice(frames), rng.random() * 0.2)


ATTACKS: tuple[Attack, ...] = (
    noise,
    broken_ogg,
    hollow_packets,
    wrong_kinds,
    giants,
    flood,
    bad_queries,
    broken_requests,
    broken_frames,
)


async def wave(at: At, seed: int, size: int = WAVE) -> None:
    """So many attacks at once."""

    async def one(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        with contextlib.suppress(*ENDS):
            await asyncio.wait_for(rng.choice(ATTACKS)(rng, at), 20)

    await asyncio.gather(*(one(number) for number in range(size)))


async def emptied(server: Program) -> None:
    """Waits until nothing of any call is left; held calls go after the grace period."""
    await eventually(
        lambda: (
            server.metric('kaiwa_conversations_active{protocol="kyutai"}') == 0
            and server.metric("kaiwa_queue_waiting") == 0
        ),
        "all slots free",
        30,
    )


async def converses(server: Program) -> None:
    """A client that means well is served: all it says comes back."""
    async with call(server.url(format="pcm")) as made:
        for _ in range(5):
            await made.say(np.full(1920, 1000, "<i2").tobytes())
            assert len(await made.frames(1)) == 1


async def stops_growing(
    server: Program, attacks: Callable[[], Awaitable[None]], count: int
) -> None:
    """Repeats the same attacks, `count` of them, until two times in a row leave nothing behind."""
    sizes = [server.metric("kaiwa_resident_memory_bytes")]
    for _ in range(MOST_REPETITIONS):
        await attacks()
        await emptied(server)
        sizes.append(server.metric("kaiwa_resident_memory_bytes"))
        if len(sizes) > 3 and sizes[-1] - sizes[-3] < 2 * count * LOST:
            return
    pytest.fail(f"memory goes on growing: {sizes}")


@pytest.fixture(params=["echo", "tiny"])
def server(request: pytest.FixtureRequest) -> Any:
    models: dict[str, tuple[object, ...]] = {
        "echo": ("--model", "synth:echo"),
        "tiny": ("--model", "synth:tiny", "--mimi", "synth:small"),
    }
    # The log is read at the end only: it must fit into a pipe.
    options = ("--slots", 8, "--queue-seconds", 1, "--resume-seconds", 1, "--log-level", "error")
    with program(*models[request.param], *options) as served:
        yield served


async def test_attacks_leave_nothing_behind(server: Program) -> None:
    async def waves() -> None:
        for number in range(10 * ROUNDS):
            await wave(server, number)
            assert server.ask("/healthz").status == 200

    await stops_growing(server, waves, 10 * ROUNDS * WAVE)
    await converses(server)
    assert server.metric("kaiwa_engine_panics_total") == 0
    server.signal()
    status, said = server.ended(30)
    assert (status, said) == (0, "")


async def test_a_thousand_connections_that_break(server: Program) -> None:
    async def one(number: int) -> None:
        rng = random.Random(number)
        with contextlib.suppress(*ENDS):
            opened: ClientConnection = await connect(address(server, rng), proxy=None)
            if rng.random() < 0.7:
                await asyncio.wait_for(opened.recv(), 2)
            for made in PAGES[: rng.randrange(10)]:
                await opened.send(bytes([AUDIO]) + made)
            opened.transport.abort()

    async def many() -> None:
        for start in range(0, 1000, 50):
            await asyncio.gather(*(one(number) for number in range(start, start + 50)))

    await stops_growing(server, many, 1000)
    await converses(server)


async def test_slow_requests_are_given_up_and_stop_nobody(server: Program) -> None:
    opened = 0

    async def slow() -> bool:
        """Whether the server hung up on a request that comes byte by byte."""
        nonlocal opened
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        opened += 1
        try:
            for byte in b"GET /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n" * 2:
                writer.write(bytes([byte]))
                await writer.drain()
                with contextlib.suppress(asyncio.TimeoutError):
                    return await asyncio.wait_for(reader.read(1), 0.4) == b""
        except OSError:
            return True
        finally:
            writer.transport.abort()
        return False

    waiting = asyncio.gather(*(slow() for _ in range(100)))
    await eventually(lambda: opened == 100, "all are connected")
    await converses(server)
    assert all(await asyncio.wait_for(waiting, 25))
    await emptied(server)

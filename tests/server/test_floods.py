"""One client that sends tiny frames as fast as it can must not be heard in another one's call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator

import pytest
from tests.server.flood import masked
from tests.server.live import ROOT, Program, program, running
from tests.server.wire import FRAME, call, pcm16, tone

from kaiwa.server.frame_budget import BURST, FRAMES_PER_SECOND, LARGE_COST, FrameBudget

TEXT, BINARY, PING, PONG = 1, 2, 9, 10
FRAMES = 25
CUT = 'kaiwa_connections_cut_total{why="flood"}'

FLOODS = {
    "pongs": (masked(PONG), {(1008, "flood")}),
    "pings": (masked(PING), {(1008, "flood")}),
    # A hundred messages without meaning end a call, too; whichever comes first.
    "texts": (masked(TEXT, b"x"), {(1008, "flood"), (1003, "garbage")}),
    "unknown types": (masked(BINARY, b"\x09"), {(1008, "flood"), (1003, "garbage")}),
    "empty messages": (masked(BINARY), {(1008, "flood"), (1003, "garbage")}),
    "empty audio": (masked(BINARY, b"\x01"), {(1008, "flood"), (1003, "garbage")}),
    "empty controls": (masked(BINARY, b"\x03"), {(1008, "flood"), (1003, "garbage")}),
    "large controls": (masked(BINARY, b"\x03" + b"{" * 60), {(1008, "flood")}),
    "large metadata": (masked(BINARY, b"\x04" + b"[" * 120), {(1008, "flood")}),
    "large pings of Kaiwa": (masked(BINARY, b"\x06" * 101), {(1008, "flood")}),
    "pings of Kaiwa": (masked(BINARY, b"\x06"), {(1008, "flood"), (1003, "garbage")}),
}


async def attack(port: int, frame: bytes) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.server.flood", str(port), frame.hex(), "8"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    code, reason = json.loads(said)
    return code, reason


@pytest.fixture(scope="module")
def served() -> Iterator[Program]:
    """A server as a process, whose time the test's own threads do not take."""
    with program("--model", "synth:echo", "--slots", 4) as server:
        yield server


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_is_cut_off_and_not_heard_by_others(kind: str, served: Program) -> None:
    frame, ends = FLOODS[kind]
    cut = served.metric(CUT)
    async with call(served.url(format="pcm")) as chat:
        sound = [pcm16(tone(1))] * FRAMES
        flood = asyncio.create_task(attack(served.port, frame))
        came: list[float] = []

        async def speak() -> None:
            for frame_of_sound in sound:
                await chat.say(frame_of_sound)
                # As fast as somebody speaks; gaps are what is measured.
                await asyncio.sleep(FRAME / 24_000)

        speaking = asyncio.create_task(speak())
        for _ in range(FRAMES):
            await chat.frames(1)
            came.append(time.monotonic())
        await speaking
        got = await flood
    gaps = [b - a for a, b in itertools.pairwise(came)]
    print(f"{kind}: {got}, longest gap {1000 * max(gaps):.0f} ms")
    assert got in ends
    assert max(gaps) < 1.0
    if got[1] == "flood":
        assert served.metric(CUT) == cut + 1
    assert served.ask("/healthz").status == 200


BODY = """
import socket, sys
made = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
made.sendall(b"POST /v1/tokens HTTP/1.1\\r\\nHost: localhost\\r\\n")
made.sendall(b"Transfer-Encoding: chunked\\r\\n\\r\\n")
made.settimeout(8)
try:
    for _ in range(1000):
        made.sendall(b"1\\r\\nx\\r\\n" * 1000)
except OSError:
    pass
print(made.recv(65536).decode())
"""


async def test_a_body_without_end_is_refused_and_not_heard_by_others(served: Program) -> None:
    async with call(served.url(format="pcm")) as chat:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BODY, str(served.port)), stdout=asyncio.subprocess.PIPE
        )
        came = [time.monotonic()]
        for _ in range(FRAMES):
            await chat.say(pcm16(tone(1)))
            await chat.frames(1)
            came.append(time.monotonic())
        said = (await asyncio.wait_for(process.communicate(), 30))[0].decode()
    print(f"longest gap {1000 * max(b - a for a, b in itertools.pairwise(came)):.0f} ms")
    # A token is answered before the body has come: then only the connection ends.
    assert said.startswith(("HTTP/1.1 413", "HTTP/1.1 200"))


@pytest.mark.parametrize("kind", ["connect", "connect-wait"])
async def test_connections_that_ask_for_nothing_are_not_heard_by_others(
    kind: str, served: Program
) -> None:
    """As many as one process can open and close, at once or after some milliseconds."""
    health: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        assert served.ask("/healthz").status == 200
        health.append(time.monotonic() - began)

    async with call(served.url(format="pcm")) as chat:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.server.flood", str(served.port), kind, "3"),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        came = [time.monotonic()]
        while process.returncode is None:
            await chat.say(pcm16(tone(1)))
            await chat.frames(1)
            came.append(time.monotonic())
            await asyncio.to_thread(ask)
            with contextlib.suppress(asyncio.TimeoutError):
                # As fast as somebody speaks; gaps are what is measured.
                await asyncio.wait_for(process.wait(), FRAME / 24_000)
        assert process.stdout is not None
        count = int(await process.stdout.read())
    gaps = [b - a for a, b in itertools.pairwise(came)]
    print(
        f"{kind}: {count} connections, longest gap {1000 * max(gaps):.0f} ms, "
        f"slowest answer of /healthz {1000 * max(health):.0f} ms"
    )
    assert count > 1000
    assert len(health) > 5
    # Nothing of them is left: who calls now gets in.
    async with call(served.url(format="pcm")) as chat:
        await chat.say(bytes(2 * FRAME))
        await chat.frames(1)


async def test_a_flooded_call_leaves_its_slot() -> None:
    with running(slots=1) as live:
        assert await attack(live.port, masked(PONG)) == (1008, "flood")
        async with call(live.url(format="pcm")) as chat:
            await chat.say(bytes(2 * FRAME))
            await chat.frames(1)


async def test_many_messages_in_one_packet_all_arrive() -> None:
    """What is parsed in slices is still all there, with the close frame at the end."""
    with running() as live:
        async with call(live.url(format="pcm", client="kaiwa")) as chat:
            for number in range(1000):
                await chat.send(6, number.to_bytes(2, "big"))
            for number in range(1000):
                assert await chat.find(6) == number.to_bytes(2, "big")


async def test_text_that_is_no_utf8_ends_a_call_without_a_traceback() -> None:
    """`running` fails if anything was logged as an error."""
    with running(slots=1) as live:
        assert await attack(live.port, masked(TEXT, b"\xff\xfe")) == (1007, "text is not UTF-8")


def test_a_budget_fills_up_again() -> None:
    budget = FrameBudget(0.0)
    assert budget.spend(int(BURST), 0, 0.0)
    assert not budget.spend(1, 0, 0.0)
    budget = FrameBudget(0.0)
    assert budget.spend(int(BURST), 0, 0.0)
    assert budget.spend(int(FRAMES_PER_SECOND), 0, 1.0)
    assert budget.spend(int(BURST), 0, 1000.0)


def test_sound_costs_less_than_empty_frames() -> None:
    assert FrameBudget(0.0).spend(0, int(BURST / LARGE_COST), 0.0)
    assert not FrameBudget(0.0).spend(0, int(BURST / LARGE_COST) + 1, 0.0)

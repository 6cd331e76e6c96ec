"""A live call with a microphone made by hand."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.client.server import serving, until

from kaiwa.client import connect
from kaiwa.client.live import FLOOR, WAITING, LiveCall, level
from kaiwa.errors import ServerError
from kaiwa.synth import voice

SPEECH = voice(0.4)


def test_levels() -> None:
    assert level(np.zeros(10, np.float32)) == FLOOR
    assert level(np.zeros(0, np.float32)) == FLOOR
    assert level(np.ones(10, np.float32)) == 0.0
    assert level(np.full(10, 0.1, np.float32)) == pytest.approx(-20)


async def test_blocks_of_any_size_become_frames() -> None:
    played: list[NDArray[np.float32]] = []
    text: list[str] = []
    async with (
        serving(say={0: " Hi"}) as server,
        connect(server.url, format="pcm") as chat,
    ):
        live = LiveCall(chat, play=played.append, on_text=text.append)
        running = asyncio.create_task(live.run())
        for start in range(0, len(SPEECH), 700):
            await asyncio.to_thread(live.microphone, SPEECH[start : start + 700])
        await until(lambda: len(played) == 5)
        await until(lambda: text == [" Hi"])
        assert live.heard > FLOOR
        assert live.said > FLOOR
        live.muted = True
        live.microphone(np.ones(1920, np.float32))
        await until(lambda: len(played) == 6)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    np.testing.assert_allclose(np.concatenate(played[:5]), SPEECH, atol=1e-4)
    assert not played[5].any()
    assert live.heard == FLOOR
    assert live.dropped == 0


async def test_the_oldest_is_dropped_when_the_network_is_slow() -> None:
    async with serving() as server, connect(server.url, format="pcm") as chat:
        live = LiveCall(chat, play=lambda pcm: None)
        live.microphone(np.ones(1920 * 10, np.float32))
        # Two turns of the loop, in which the blocks are taken over from the microphone's thread.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert live.dropped == 10 - WAITING


async def test_the_server_ends_the_call() -> None:
    async with (
        serving(end=1, close=(1013, "shed"), error="Overload.") as server,
        connect(server.url, format="pcm") as chat,
    ):
        live = LiveCall(chat, play=lambda pcm: None)
        live.microphone(np.zeros(1920, np.float32))
        with pytest.raises(ServerError, match="Overload"):
            await live.run()

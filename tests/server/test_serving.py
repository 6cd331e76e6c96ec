"""A server that really runs, and clients that really call it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from tests.server.live import Live, eventually, program, running
from websockets.asyncio.client import connect

import kaiwa
from kaiwa.server import key_edits


async def opening(socket_: Any) -> dict[str, Any]:
    """Reads handshake and metadata."""
    first = await socket_.recv()
    assert first == bytes(9)
    second = await socket_.recv()
    assert second[0] == 4
    return dict(json.loads(second[1:]))


def pcm(values: np.ndarray[Any, Any]) -> bytes:
    return b"\x01" + (values * 32767).astype("<i2").tobytes()


async def answer(socket_: Any, frames: int) -> bytes:
    """Audio of so many frames, as PCM."""
    audio = b""
    while len(audio) < frames * 3840:
        message = await asyncio.wait_for(socket_.recv(), 5)
        if message[0] == 1:
            audio += message[1:]
    return audio


async def test_a_call_gives_what_the_model_gives() -> None:
    rng = np.random.default_rng(0)
    # Values that 16 bits hold exactly.
    said = np.rint(rng.standard_normal(20 * 1920) * 3000) / 32768
    duplex = kaiwa.Duplex.from_pretrained("synth:tiny", seed=9, prime=True)
    frames = said.astype(np.float32).reshape(-1, 1, 1920)
    wanted = np.concatenate([duplex.step(frame).audio[0] for frame in frames])
    with running(model="synth:tiny") as server:
        address = server.url(format="pcm", pace="none", seed=9)
        async with connect(address) as call:
            metadata = await opening(call)
            assert metadata["synthetic"] is True
            assert metadata["model"] == "synth:tiny"
            for frame in (said * 32768).astype("<i2").reshape(-1, 1920):
                await call.send(b"\x01" + frame.tobytes())
            heard = np.frombuffer(await answer(call, 20), "<i2") / 32767
    assert np.abs(heard - np.clip(wanted, -1, 1)).max() <= 1 / 32767


async def test_opus_both_ways() -> None:
    t = np.arange(25 * 1920) / 24_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    writer, reader = kaiwa.OggOpusWriter(), kaiwa.OggOpusReader()
    heard: list[np.ndarray[Any, Any]] = []
    with running() as server:
        async with connect(server.url()) as call:
            await opening(call)
            for frame in tone.reshape(-1, 1920):
                await call.send(b"\x01" + writer.write(frame))
                message = await asyncio.wait_for(call.recv(decode=False), 5)
                assert message[0] == 1
                heard.append(reader.read(message[1:]))
                # In the time of the call: frames that come early are dropped.
                await asyncio.sleep(0.08)
    level = np.sqrt(np.mean(np.concatenate(heard)[9600:] ** 2))
    assert level == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(("query", "status"), [({"audio_topk": "many"}, 400), ({"pace": "x"}, 400)])
async def test_what_is_no_number_is_refused(query: dict[str, str], status: int) -> None:
    with running() as server:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(server.url(**query))
        assert refused.value.response.status_code == status


async def test_a_full_house_queues_then_refuses() -> None:
    with running(slots=1, queue=1) as server:
        async with connect(server.url()) as first:
            await opening(first)
            second = await connect(server.url(client="kaiwa"))
            state = await second.recv()
            assert state[0] == 4
            assert json.loads(state[1:]) == {"state": "queued", "position": 1}
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(server.url())
            response = refused.value.response
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "5"
            assert server.ask("/readyz").status == 503
        await opening(second)
        await second.close()


async def test_a_lost_call_is_taken_up_where_it_was() -> None:
    with running() as server:
        call = await connect(server.url(format="pcm", pace="none", resumable=1))
        metadata = await opening(call)
        await call.send(pcm(np.full(1920, 0.25)))
        await answer(call, 1)
        call.transport.abort()
        await eventually(lambda: server.parts.held)
        async with connect(
            server.url(format="pcm", pace="none", resumable=1, resume=metadata["resume_token"])
        ) as again:
            second = await opening(again)
            assert second["resumed"] is True
            assert second["session_id"] == metadata["session_id"]
            await again.send(pcm(np.full(1920, 0.5)))
            heard = np.frombuffer(await answer(again, 1), "<i2") / 32767
            assert heard == pytest.approx(0.5, abs=1e-3)


async def test_keys_tokens_and_revocation(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, secret = key_edits.add(path, "anna", 0, concurrency=1)
    with running(keys=str(path)) as server:
        assert server.ask("/v1/models").status == 401
        assert server.ask("/v1/stats", key=secret).status == 403
        token = server.ask("/v1/tokens", "POST", key=secret).json["token"]
        call = await connect(server.url(token=token))
        await opening(call)
        for query, headers, status in (
            ({"token": token}, {}, 401),
            ({}, {"Authorization": f"Bearer {secret}"}, 429),
            ({}, {}, 401),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(server.url(**query), additional_headers=headers)
            assert refused.value.response.status_code == status
        key_edits.revoke(path, "anna", 1)
        assert (await asyncio.wait_for(call.recv(), 5))[0] == 5
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(call.recv(), 5)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "revoked")


async def test_pages_of_others_are_refused() -> None:
    with running() as server:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(server.url(), origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403


def crash(server: Live, stage: int) -> None:
    """A client that goes without a word at some stage."""
    raw = socket.create_connection(("127.0.0.1", server.port))
    head = (
        b"GET /api/chat HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    junk = bytes([0x82, 0x85, 0, 0, 0, 0, 1]) + b"OggS"
    data = [head[:40], head, head + junk, head + junk[:5]][stage % 4]
    raw.sendall(data)
    if stage % 3:
        raw.settimeout(5)
        raw.recv(64)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def test_clients_that_crash_leave_nothing_behind() -> None:
    with running(slots=4, queue=4) as server:
        for n in range(300):
            crash(server, n * 7 % 12 if (n * 7 % 12) % 4 else 0 if n % 3 == 0 else 1)
        # `running` checks that no slot, queue or connection is left.
        assert server.ask("/healthz").status == 200


async def test_sigterm_lets_calls_end() -> None:
    with program("--model", "synth:tiny", "--slots", 2) as served:
        async with connect(served.url(format="pcm", pace="none")) as call:
            await opening(call)
            served.signal(signal.SIGTERM)
            await eventually(lambda: served.ask("/readyz").json["state"] == "draining")
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(served.url())
            assert refused.value.response.status_code == 503
            assert served.ask("/healthz").status == 200
            await call.send(pcm(np.zeros(1920)))
            await answer(call, 1)
        status, _ = await asyncio.to_thread(served.ended)
        assert status == 0


async def test_a_drain_has_an_end() -> None:
    with program("--model", "synth:echo", "--drain-seconds", 0.5) as served:
        async with connect(served.url()) as call:
            await opening(call)
            served.signal(signal.SIGTERM)
            assert await asyncio.wait_for(call.recv(), 5) == b"\x05server restarting"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(call.recv(), 5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        status, _ = await asyncio.to_thread(served.ended)
        assert status == 0

"""Kyutai's protocol on a running server: messages of every type, and parameters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.server.live import Live, eventually, running
from tests.server.wire import (
    AUDIO,
    CONTROL,
    FRAME,
    HANDSHAKE,
    METADATA,
    PING,
    TEXT,
    call,
    from_pcm16,
    loudness,
    pcm16,
    pitch,
    refusal,
    tone,
)

import kaiwa
from kaiwa.server import lifecycle
from kaiwa.server.call import call as calls

FILE = {"format": "pcm", "pace": "none"}


def silence(frames: int) -> list[bytes]:
    return [bytes(2 * FRAME)] * frames


# ---- handshake and metadata --------------------------------------------------------------------


async def test_the_handshake_comes_first_and_has_nine_bytes(echo: Live) -> None:
    async with call(echo.url(), begin=False) as chat:
        assert await chat.message() == bytes(9)
        assert (await chat.message())[0] == METADATA


async def test_metadata_has_what_the_web_client_of_kyutai_checks(tiny: Live) -> None:
    async with call(tiny.url()) as chat:
        pass
    about = json.loads(chat.seen[1][1:])
    numbers = (int, float)
    wanted: dict[str, Any] = {
        "text_temperature": numbers,
        "audio_temperature": numbers,
        "pad_mult": numbers,
        "repetition_penalty": numbers,
        "text_topk": int,
        "audio_topk": int,
        "repetition_penalty_context": int,
        "lm_model_file": str,
        "mimi_model_file": str,
        "instance_name": str,
        "build_info": dict,
        "session_id": str,
        "max_seconds": numbers,
        "resume_token": type(None),
        "resume_seconds": int,
        "model": str,
        "synthetic": bool,
        "resumed": bool,
    }
    for name, kind in wanted.items():
        assert isinstance(about[name], kind), name
        assert kind is bool or not isinstance(about[name], bool), name
    build = (
        "build_timestamp build_date git_branch git_timestamp git_date git_hash git_describe "
        "rustc_host_triple rustc_version cargo_target_triple"
    )
    assert set(build.split()) <= set(about["build_info"])
    assert all(isinstance(value, str) for value in about["build_info"].values())
    assert about["model"] == "synth:tiny"
    assert about["synthetic"] is True


# ---- audio and text ----------------------------------------------------------------------------


async def test_audio_from_before_the_slot_is_dropped_and_causes_no_lag() -> None:
    with running(slots=1) as live:
        url = live.url(**FILE)
        async with call(url) as first, call(url, begin=False) as second:
            await eventually(lambda: live.engine.readiness.queue == 1)
            await second.say(*[pcm16(tone(1, 800))] * 20)
            # What was sent has been read: pings are answered in order.
            await (await second.socket.ping())
            await first.socket.close()
            await second.begin()
            await second.say(*[pcm16(tone(1, 250))] * 10)
            answers = await second.frames(10)
            assert len(second.seen) == 12, "nothing came before the handshake"
    assert abs(pitch(from_pcm16(answers[1:])) - 250) < 15


async def test_text_follows_the_audio_of_its_frame_and_is_what_the_engine_says(tiny: Live) -> None:
    count, sound = 60, tone(60)
    async with call(tiny.url(seed=11, **FILE)) as chat:
        await chat.say(*[pcm16(sound[at : at + FRAME]) for at in range(0, len(sound), FRAME)])
        await chat.frames(count)
        messages = chat.seen[2:]
    kinds = [message[0] for message in messages]
    assert set(kinds) == {AUDIO, TEXT}
    assert all(before == AUDIO for before, kind in pairwise(kinds) if kind == TEXT)
    heard = pcm16(sound)
    quantised = from_pcm16([heard])
    with tiny.engine.session(seed=11) as session:
        session.send(quantised)
        session.finish()
        events = list(session)
    wire: list[tuple[int, str]] = []
    frame = -1
    for message in messages:
        if message[0] == AUDIO:
            frame += 1
        else:
            wire.append((frame, message[1:].decode("utf-8", "strict")))
    ours = [(round(e.t / 0.08), e.text) for e in events if isinstance(e, kaiwa.TextEvent)]
    assert len(wire) > 20
    assert wire == [piece for piece in ours if piece[0] < count][: len(wire)]
    audio = [e.pcm for e in events if isinstance(e, kaiwa.AudioEvent)]
    spoken = b"".join(m[1:] for m in messages if m[0] == AUDIO)
    assert np.concatenate(audio).shape == (count * FRAME,)
    assert spoken == b"".join(
        np.clip(np.rint(pcm * 32767), -32768, 32767).astype("<i2").tobytes() for pcm in audio
    )


async def test_pcm_is_said_back_by_the_echo(echo: Live) -> None:
    sound = tone(10)
    async with call(echo.url(**FILE)) as chat:
        await chat.say(pcm16(sound)[:1001], b"", pcm16(sound)[1001:1002])
        await chat.say(pcm16(sound))
        answers = await chat.frames(10)
    assert all(len(answer) == 2 * FRAME for answer in answers)
    assert abs(pitch(from_pcm16(answers)) - 330) < 15
    assert 0.15 < loudness(from_pcm16(answers)) < 0.25


async def test_pace_none_drops_nothing_and_does_not_wait_for_time(echo: Live) -> None:
    started = time.monotonic()
    async with call(echo.url(**FILE)) as chat:
        sending = asyncio.create_task(chat.say(*silence(200)))
        await chat.frames(200)
        await sending
    assert time.monotonic() - started < 8, "200 frames are 16 s"


async def test_in_a_call_answers_never_run_ahead_of_real_time(echo: Live) -> None:
    async with call(echo.url(format="pcm")) as chat:
        started = time.monotonic()
        await chat.say(*silence(12))
        came = []
        while time.monotonic() - started < 1:
            with contextlib.suppress(asyncio.TimeoutError):
                await chat.find(AUDIO, 0.2)
                came.append(time.monotonic() - started)
    # Three at once, then one each 80 ms; of the rest four could wait.
    assert 4 <= len(came) <= 8
    assert all(at > 0.08 * (n - 2) - 0.01 for n, at in enumerate(came))


async def test_the_clock_of_the_server_puts_silence_in(echo: Live) -> None:
    async with call(echo.url(format="pcm", clock="server")) as chat:
        await chat.frames(3)
        assert loudness(from_pcm16(await chat.frames(1))) == 0
    async with call(echo.url(format="pcm")) as chat:
        with pytest.raises(asyncio.TimeoutError):
            await chat.message(0.5)


async def test_something_comes_when_nothing_flows(
    echo: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls.KEEPALIVE + lifecycle.WATCH < 5
    monkeypatch.setattr(calls, "KEEPALIVE", 0.2)
    async with call(echo.url()) as chat:
        started = time.monotonic()
        assert await chat.message() == bytes([PING])
        assert await chat.message() == bytes([PING])
    assert time.monotonic() - started < 2 * (0.2 + lifecycle.WATCH) + 0.5


# ---- what means nothing ------------------------------------------------------------------------


async def test_what_means_nothing_is_ignored(echo: Live) -> None:
    async with call(echo.url(**FILE)) as chat:
        for kind in (7, 8, 9, 200, 255):
            await chat.send(kind, b"something")
        for text in ("", "hello", "{}", "0123"):
            await chat.socket.send(text)
        await chat.socket.send(b"")
        for _ in range(calls.GARBAGE):
            await chat.send(CONTROL, b"\x01")
            await chat.send(METADATA, b"no JSON")
        await chat.send(HANDSHAKE, bytes(8))
        await chat.send(PING)
        await chat.send(PING, b"of other clients this is not sent back")
        await chat.send(AUDIO)
        await chat.send(TEXT, b"\xff\xfe")
        await chat.say(*silence(3))
        await chat.frames(3)
        assert [message[0] for message in chat.seen[2:]] == [AUDIO] * 3


@pytest.mark.parametrize("what", ["unknown", "text", "empty", "no ogg"])
async def test_a_hundred_messages_that_mean_nothing_end_the_call(echo: Live, what: str) -> None:
    message: dict[str, bytes | str] = {
        "unknown": b"\x09abc",
        "text": "abc",
        "empty": b"",
        "no ogg": b"\x01" + b"no pages" * 20,
    }
    async with call(echo.url()) as chat:
        for _ in range(calls.GARBAGE - 1):
            await chat.socket.send(message[what])
        with pytest.raises(asyncio.TimeoutError):
            await chat.message(0.2)
        for _ in range(2):
            await chat.socket.send(message[what])
        assert await chat.gone() == (1003, "garbage")
    assert len(chat.said) == 1
    assert "mean nothing" in chat.said[0]


# ---- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"text_temperature": "warm"},
        {"audio_temperature": "nan"},
        {"text_topk": "2.5"},
        {"audio_topk": "many"},
        {"seed": "x"},
        {"audio_seed": "0x10"},
        {"text_seed": "9" * 50},
        {"text_topk": "1_0"},
        {"audio_topk": "\u0663"},
        {"text_temperature": " 1"},
        {"pad_mult": "what"},
        {"repetition_penalty": "x"},
        {"repetition_penalty_context": "1.5"},
        {"max_steps": "ten"},
        {"clock": "sundial"},
        {"pace": "slow"},
        {"format": "mp3"},
        {"seed": "\x00\u2028"},
    ],
    ids=lambda query: next(iter(query)),
)
async def test_a_value_that_is_none_of_its_kind_is_refused(
    echo: Live, query: dict[str, str]
) -> None:
    status, error, headers = await refusal(echo.url(**query))
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "bad_parameter"
    assert next(iter(query)) in error["message"]
    assert headers["content-type"] == "application/json"


async def test_numbers_are_brought_into_range_and_unknown_parameters_ignored(echo: Live) -> None:
    query = {
        "text_temperature": "-3",
        "audio_temperature": "1e9",
        "text_topk": "-1",
        "audio_topk": "99999999999",
        "seed": "-5",
        "pad_mult": "-9",
        "repetition_penalty": "1.5",
        "repetition_penalty_context": "64",
        "email": "somebody@example.com",
        "worker_addr": "",
        "max_steps": "",
    }
    async with call(echo.url(**query)) as chat:
        pass
    about = json.loads(chat.seen[1][1:])
    assert about["text_temperature"] == 0
    assert about["audio_temperature"] == 10
    assert about["text_topk"] == 0
    assert about["audio_topk"] == 1 << 20
    assert about["seed"] == 0
    assert (about["pad_mult"], about["repetition_penalty"]) == (0, 1.0), "what is in force"
    async with call(echo.url(text_seed=2**64 - 1)) as chat:
        pass
    assert json.loads(chat.seen[1][1:])["seed"] == 2**64 - 1


async def test_the_same_seed_gives_the_same_answer(tiny: Live) -> None:
    sound = [pcm16(tone(1, 200 + 10 * n)) for n in range(25)]

    async def answer(**query: object) -> list[bytes]:
        async with call(tiny.url(**FILE, **query)) as chat:
            await chat.say(*sound)
            await chat.frames(len(sound))
            return [m for m in chat.seen[2:] if m[0] == AUDIO]

    same = await asyncio.gather(
        answer(seed=5), answer(audio_seed=5), answer(text_seed=5), answer(seed=6), answer()
    )
    assert same[0] == same[1] == same[2]
    assert same[0] != same[3]
    assert same[3] != same[4] != same[0]


async def test_max_steps_end_the_call(echo: Live) -> None:
    async with call(echo.url(max_steps=5, **FILE)) as chat:
        await chat.say(*silence(20))
        assert await chat.gone() == (1000, "expired")
    assert [m[0] for m in chat.seen].count(AUDIO) == 5
    assert "limit" in chat.said[0]


# ---- our own client ----------------------------------------------------------------------------


async def test_pings_of_our_own_client_come_back(echo: Live) -> None:
    async with call(echo.url(client="kaiwa")) as chat:
        await chat.send(PING, b"12345678")
        assert await chat.find(PING) == b"12345678"
        await chat.send(PING, bytes(65))
        await chat.send(PING, bytes(64))
        assert await chat.find(PING) == bytes(64)


async def test_the_queue_is_told_to_our_own_client() -> None:
    with running(slots=1, queue=2) as live:
        asked = {"client": "kaiwa", "format": "pcm"}
        async with call(live.url()) as first, call(live.url(**asked), begin=False) as second:
            assert json.loads(await second.find(METADATA)) == {"state": "queued", "position": 1}
            async with call(live.url(**asked), begin=False) as third:
                assert json.loads(await third.find(METADATA))["position"] == 2
                await first.socket.close()
                await second.begin()
                assert json.loads(await third.find(METADATA))["position"] == 1
                await second.socket.close()
                await third.begin()


async def test_others_hear_nothing_while_they_wait() -> None:
    with running(slots=1) as live:
        async with call(live.url()) as first, call(live.url(), begin=False) as second:
            with pytest.raises(asyncio.TimeoutError):
                await second.message(0.5)
            await first.socket.close()
            assert await second.message() == bytes(9)

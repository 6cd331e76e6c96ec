"""Calls by WebRTC against a running server, with aiortc as the caller."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from tests.server.conftest import MakeKey
from tests.server.live import Live, eventually, running, wait_until
from tests.server.openai_calls import paced
from tests.server.test_realtime import BEGINS, ENDS, check
from tests.server.webrtc import PATH, Caller, calling, form, post
from tests.server.wire import AUDIO, FRAME, call, tone

from kaiwa.client import opus
from kaiwa.server.protocols.realtime.webrtc import channel, limits, routes

SILENCE = np.zeros(FRAME, np.float32)


@pytest.fixture(scope="module")
def offer() -> str:
    """An offer as a caller makes it, who never connects."""

    async def make() -> str:
        caller = Caller()
        try:
            caller.stay_here()
            return await caller.offer()
        finally:
            await caller.close()

    return asyncio.run(make())


@pytest.fixture(scope="module")
def small() -> Iterator[Live]:
    """A server with room for two."""
    with running(slots=2, queue=0) as live:
        yield live


def loud(samples: Any) -> Any:
    """Which pieces of 20 ms are no silence."""
    whole = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    return np.abs(whole).max(1) > 0.05


async def test_sound_and_events_of_a_call(echo: Live) -> None:
    before = echo.metric('kaiwa_conversations_started_total{protocol="webrtc"}')
    said = np.concatenate([np.tile(SILENCE, 6), tone(12)])
    async with calling(echo, said) as caller:
        created = await caller.find("session.created")
        assert created["session"]["model"] == "echo"
        (row,) = echo.ask("/v1/sessions").json["sessions"]
        assert (row["protocol"], row["state"]) == ("webrtc", "active")
        done = await caller.find("response.done")
        stopped = await caller.find("output_audio_buffer.stopped")
        assert stopped["response_id"] == done["response"]["id"]
        kinds = [event["type"] for event in caller.seen]
        started = kinds.index("output_audio_buffer.started")
        assert [kind for kind in kinds[:started] if kind in BEGINS] == BEGINS
        assert [kind for kind in kinds[started:] if kind in ENDS][-6:] == ENDS
        check(caller.seen)
        # The sound comes by the track, not by events.
        assert not caller.of("response.output_audio.delta")
        heard = loud(caller.heard)
        assert 40 <= heard.sum() <= 60, heard.sum()
    assert echo.metric('kaiwa_conversations_started_total{protocol="webrtc"}') == before + 1
    await eventually(lambda: echo.quiet, "the slot is free")


async def test_what_comes_back_is_what_was_said(echo: Live) -> None:
    """The frequency of a tone, after two codecs."""
    t = np.arange(24_000) / 24_000
    said = np.concatenate([np.zeros(24_000), 0.3 * np.sin(2 * np.pi * 700 * t)]).astype(np.float32)
    async with calling(echo, said) as caller:
        await caller.find("response.done")
        heard = caller.heard
    first = int(np.argmax(loud(heard))) * 480
    spectrum = np.abs(np.fft.rfft(heard[first + 4800 : first + 14_400] * np.hanning(9600)))
    assert np.argmax(spectrum) * 24_000 / 9600 == pytest.approx(700, abs=5)


async def test_an_update_and_a_cancelled_response(echo: Live) -> None:
    async with calling(echo, np.concatenate([np.tile(SILENCE, 6), tone(60)])) as caller:
        await caller.find("session.created")
        caller.say(
            "session.update",
            session={"type": "realtime", "audio": {"input": {"turn_detection": None}}},
        )
        told = (await caller.find("session.updated"))["session"]["audio"]["input"]
        assert (told["turn_detection"], told["format"]["rate"]) == (None, 24_000)
        caller.say("input_audio_buffer.append", audio="AAAA", event_id="mine")
        error = (await caller.find("error"))["error"]
        assert (error["code"], error["event_id"]) == ("unsupported_operation", "mine")
        await caller.find("output_audio_buffer.started")
        await caller.until(lambda: loud(caller.heard).sum() > 20, "sound")
        caller.say("response.cancel")
        done = await caller.find("response.done")
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        await caller.until(lambda: not loud(caller.heard)[-10:].any(), "silence, though it is said")


async def test_a_call_without_events(echo: Live) -> None:
    async with calling(
        echo, np.concatenate([np.tile(SILENCE, 6), tone(12)]), events=False
    ) as caller:
        await caller.until(lambda: loud(caller.heard).sum() > 30, "sound")


async def test_the_openai_client_posts_a_form(echo: Live) -> None:
    session = {
        "type": "realtime",
        "model": "gpt-realtime",
        "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 900}}},
    }
    caller = Caller()
    try:
        caller.stay_here()
        async with AsyncOpenAI(
            base_url=f"http://127.0.0.1:{echo.port}/v1", api_key="none"
        ) as client:
            made = await client.realtime.calls.with_raw_response.create(
                sdp=await caller.offer(),
                session=session,
            )
            assert made.http_response.status_code == 201
            location = made.headers["location"]
            assert made.headers["content-type"] == "application/sdp"
            await caller.take(made.http_response.text)
            told = (await caller.find("session.created"))["session"]["audio"]["input"]
            assert told["turn_detection"]["silence_duration_ms"] == 900
            await client.realtime.calls.hangup(location.rsplit("/", 1)[1])
            await caller.until(lambda: caller.closed, "the end")
    finally:
        await caller.close()
    assert echo.ask(f"{location}/hangup", "POST").status == 404


def test_offers_that_cannot_be_answered(echo: Live, offer: str) -> None:
    video = offer.replace("m=audio", "m=video", 1)
    cases: list[tuple[bytes | str, str, int]] = [
        ("", "application/sdp", 400),
        (b"\xff\x00\xfe" * 100, "application/sdp", 400),
        ("v=0\r\n", "application/sdp", 400),
        ("v=0\r\n" + "a=x\r\n" * 1000, "application/sdp", 400),
        (offer[:300], "application/sdp", 400),
        (video, "application/sdp", 400),
        (offer + "m=video" + offer.split("m=audio")[1].split("m=")[0], "application/sdp", 400),
        (offer.replace("opus", "speex"), "application/sdp", 400),
        (offer.replace("a=fingerprint", "a=fingertip"), "application/sdp", 400),
        (offer.replace("a=ice-ufrag", "a=ice-frag"), "application/sdp", 400),
        (offer.replace("a=group", "a=troup"), "application/sdp", 400),
        (offer.replace("a=rtcp-mux", "a=rtcp-mix"), "application/sdp", 400),
        (re.sub(r"m=audio \d+", "m=audio x", offer), "application/sdp", 400),
        ("x" * 80_000, "application/sdp", 413),
        (offer, "text/plain", 415),
        (b"--nothing", "multipart/form-data; boundary=line", 400),
        (b"--nothing", "multipart/form-data", 400),
        (*form(session="{}"), 400),
        (*form(sdp=offer, session="[1]"), 400),
        (*form(sdp=offer, session="{"), 400),
        (*form(sdp=offer, session='{"model": "other"}'), 404),
        (*form(sdp=offer, session='{"model": {}}'), 404),
    ]
    for body, kind, status in cases:
        answer = post(echo, body, kind)
        assert answer.status == status, (body[:200], kind, answer.body)
        error = answer.json["error"]
        assert error["message"]
        assert "\n" not in error["message"]
    assert echo.quiet
    assert post(echo, offer, path=f"{PATH}?model=other").status == 404


async def test_keys_secrets_and_their_limits(make_key: MakeKey, key_path: Path, offer: str) -> None:
    key = make_key("web", concurrency=1)
    other = make_key("other", protocols=("kyutai",))
    with running(keys=str(key_path), origin=("https://a.example",)) as live:
        # Nobody is told anything about an offer before it is known who asks.
        assert post(live, "nonsense").status == 401
        assert post(live, offer, key="kw_nonsense").status == 401
        assert post(live, offer, key=other).status == 403
        page = "https://a.example"
        session = '{"session": {"type": "realtime", "audio": {"input": {"turn_detection": null}}}}'
        secrets = "/v1/realtime/client_secrets"
        secret = post(live, session, "application/json", path=secrets, key=key, origin=page).json[
            "value"
        ]
        assert post(live, offer, key=secret, origin="https://b.example").status == 403
        async with calling(live, key=secret, origin=page) as caller:
            told = (await caller.find("session.created"))["session"]
            assert told["audio"]["input"]["turn_detection"] is None
            (row,) = live.ask("/v1/sessions", key=make_key("boss", operator=True)).json["sessions"]
            assert (row["key_name"], row["protocol"]) == ("web", "webrtc")
            refused = post(live, offer, key=key)
            assert (refused.status, refused.json["error"]["code"]) == (429, "key_concurrency")
        await eventually(lambda: live.quiet, "the slot is free")


def test_damaged_offers_are_answered_or_refused(
    small: Live, offer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are lost, doubled, cut off or changed."""
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.05)
    rng = random.Random(1)
    seen = set()
    for _ in range(150):
        lines = offer.splitlines()
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(lines))
            line = lines[at]
            cut = rng.randint(0, len(line))
            lines[at : at + 1] = rng.choice(
                [[], [line, line], [line[:cut]], [line[:cut] + rng.choice("9=: é") + line[cut:]]]
            )
        seen.add(post(small, ("\r\n".join(lines) + "\r\n").encode()).status)
    # Some find no slot, since those before them have not been given up yet.
    assert {201, 400} <= seen <= {201, 400, 503}
    wait_until(lambda: small.quiet, "the slots are free")


def test_pages_of_allowed_origins_may_post(offer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.1)
    with running(origin=("https://a.example",)) as live:
        asks: Any = {"Access-Control-Request-Method": "POST"}
        allowed = live.ask(PATH, "OPTIONS", Origin="https://a.example", **asks)
        assert allowed.status == 204
        assert allowed.headers["access-control-allow-methods"] == "POST"
        assert live.ask(PATH, "OPTIONS", Origin="https://b.example", **asks).status == 403
        assert post(live, offer, origin="https://b.example").status == 403
        opened = post(live, offer, origin="https://a.example")
        assert opened.status == 201
        assert "Location" in opened.headers["access-control-expose-headers"]


async def test_a_full_server_says_so_to_the_request(small: Live, offer: str) -> None:
    async with calling(small) as first, calling(small) as second:
        await first.find("session.created")
        await second.find("session.created")
        refused = post(small, offer)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
    await eventually(lambda: small.quiet, "the slots are free")


async def test_a_client_that_never_connects_gives_its_slot_back(
    small: Live, offer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.5)
    for _ in range(2):
        assert post(small, offer).status == 201
    assert post(small, offer).status == 503
    await eventually(lambda: small.quiet, "the slots are free")


async def test_a_client_that_vanishes_gives_its_slot_back(
    small: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(channel, "LOST_SECONDS", 1.0)
    async with calling(small) as caller:
        await caller.find("session.created")
        await eventually(lambda: not small.quiet)
        caller.vanish()
        await eventually(lambda: small.quiet, "the slot is free", 20)


async def test_a_client_that_hangs_up(small: Live) -> None:
    async with calling(small) as caller:
        await caller.find("session.created")
        assert caller.channel is not None
        caller.channel.close()
        await eventually(lambda: small.quiet, "the slot is free", 20)
    ended = 'kaiwa_conversations_ended_total{protocol="webrtc",reason="client"}'
    assert small.metric(ended) >= 1


async def test_a_call_ends_in_time() -> None:
    with running(max_seconds=1.5) as live:
        async with calling(live) as caller:
            error = (await caller.find("error"))["error"]
            assert error["code"] == "session_expired"
            await caller.until(lambda: caller.closed, "the end")


async def test_a_drain_ends_calls_with_a_word() -> None:
    with running(drain_seconds=0) as live:
        async with calling(live) as caller:
            await caller.find("session.created")
            live.drain()
            error = (await caller.find("error"))["error"]
            assert error["code"] == "session_expired"
            assert "restart" in error["message"]
            await caller.until(lambda: caller.closed, "the end")


async def test_floods_end_their_own_call_alone(small: Live) -> None:
    """Events without end, and pieces of a message that has no end."""
    gaps: list[float] = []

    async def others() -> None:
        writer = opus.writer()
        async with call(small.url()) as chat:
            last = 0.0

            async def hear() -> None:
                nonlocal last
                while True:
                    if (await chat.message())[0] == AUDIO:
                        now = time.monotonic()
                        if last:
                            gaps.append(now - last)
                        last = now

            hearing = asyncio.create_task(hear())
            try:
                await paced(1000, lambda _: chat.say(writer.write(SILENCE)))
            finally:
                hearing.cancel()

    other = asyncio.create_task(others())
    try:
        async with calling(small) as caller:
            await caller.find("session.created")
            for _ in range(5000):
                caller.say("nothing")
            await caller.until(lambda: caller.closed, "cut off")
        async with calling(small) as caller:
            await caller.find("session.created")
            assert caller.channel is not None
            caller.channel.send("x" * 60_000)
            await caller.find("error")
            for _ in range(100):
                caller.channel.send("x" * 60_000)
            await caller.until(lambda: caller.closed, "cut off")
        heard = len(gaps)
        await eventually(lambda: len(gaps) > heard + 5, "the other call goes on")
    finally:
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
    print(f"longest gap in another call: {max(gaps):.3f} s of {len(gaps)} frames")
    await eventually(lambda: small.quiet, "the slots are free")


async def test_too_many_packets_end_a_call(small: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PACKETS_PER_SECOND", 10.0)
    monkeypatch.setattr(limits, "PACKETS_AT_ONCE", 40.0)
    async with calling(small) as caller:
        await eventually(lambda: not small.quiet)
        await eventually(lambda: small.quiet, "cut off")
        await caller.until(lambda: caller.closed or small.quiet, "the end")


async def test_more_channels_than_a_call_needs_end_it(small: Live) -> None:
    async with calling(small) as caller:
        await caller.find("session.created")
        for number in range(8):
            caller.connection.createDataChannel(f"more {number}")
        await eventually(lambda: small.quiet, "cut off")


def test_a_server_without_the_packages(
    echo: Live, offer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, routes._PEER, None)
    answer = post(echo, offer)
    assert answer.status == 501
    error = answer.json["error"]
    assert error["code"] == "webrtc_missing"
    assert "kaiwa[webrtc]" in error["message"]


def test_ports_and_the_address_that_is_told(offer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 1.0)
    with running(webrtc_ports="42000-42001", webrtc_address="203.0.113.7") as live:
        for _ in range(2):
            answer = post(live, offer).body.decode()
            # Each part of the answer tells the same one.
            (line,) = {x for x in answer.splitlines() if x.startswith("a=candidate")}
            words = line.split()
            assert words[4] == "203.0.113.7"
            assert words[5] in ("42000", "42001")
            assert words[7] == "host"
            assert "127.0.0.1" not in answer
        refused = post(live, offer)
        assert (refused.status, refused.json["error"]["code"]) == (503, "webrtc_unavailable")
        assert live.ask("/v1/sessions").json["sessions"][0]["protocol"] == "webrtc"


def test_the_answer_has_the_servers_own_address_alone(
    echo: Live, offer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.1)
    answer = post(echo, offer).body.decode()
    candidates = {x for x in answer.splitlines() if x.startswith("a=candidate")}
    assert [line.split()[4] for line in candidates] == ["127.0.0.1"]
    assert answer.count("a=rtpmap") == answer.count("opus/48000/2") == 1

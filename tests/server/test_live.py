"""OpenAI's Live protocol on the wire: start, formats, mute, usage, errors, ends."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.live.server_event import ServerEvent
from pydantic import TypeAdapter
from tests.server.conftest import MakeKey
from tests.server.live import Live, eventually, running
from tests.server.openai_calls import base64_pcm, frames_of, live_session, sounds, talk
from tests.server.wire import FRAME, RATE, call, from_pcm16, pitch, refusal, tone

from kaiwa import g711
from kaiwa.server.protocols.live import protocol

PATH = "/v1/live/sessions"
#: What the package of the protocol's makers takes as an event of a server.
EVENTS: TypeAdapter[Any] = TypeAdapter(ServerEvent)


def check(events: list[dict[str, Any]]) -> None:
    """Every event is one of the protocol's, with all that it has to have."""
    names = [event["event_id"] for event in events if "event_id" in event]
    assert len(set(names)) == len(names)
    for event in events:
        read = EVENTS.validate_python(event)
        assert type(read).__name__ != "dict"
        assert read.type == event["type"]


async def test_what_is_said_comes_back_as_continuous_audio(echo: Live) -> None:
    sound = tone(5)
    async with live_session(echo, f"{PATH}?pace=none") as client:
        (started,) = client.seen
        session = started["session"]
        assert (session["model"], session["status"]) == ("echo", "active")
        assert session["audio"]["format"] == {"type": "audio/pcm", "rate": 24_000}
        (row,) = echo.ask("/v1/sessions").json["sessions"]
        assert (row["protocol"], row["state"]) == ("live", "active")
        for frame in frames_of(sound):
            await client.say("session.input_audio.append", audio=base64_pcm(frame))
        np.testing.assert_allclose(await sounds(client, 5), sound, atol=2e-4)
        await client.say("session.close", event_id="bye")
        assert await client.gone() == (1000, "finished")
        closed = client.seen[-1]
        assert (closed["reason"], closed["client_event_id"]) == ("close_requested", "bye")
        assert closed["usage"]["seconds"] >= 0.4
        check(client.seen)
    await eventually(lambda: echo.quiet)
    assert echo.metric('kaiwa_conversations_ended_total{protocol="live",reason="finished"}') == 1


async def test_without_audio_the_model_goes_on_at_the_pace_of_time(echo: Live) -> None:
    async with live_session(echo) as client:
        began = time.monotonic()
        for _ in range(13):
            delta = await client.find("session.output_audio.delta")
            assert not any(base64.b64decode(delta["delta"]))
        # A frame lasts 80 ms, and three may be caught up.
        assert time.monotonic() - began > 9 * 0.08
        silence = 'kaiwa_frames_total{direction="in",kind="inserted_silence"}'
        assert echo.metric(silence) >= 13


@pytest.mark.parametrize(
    ("kind", "rate", "tolerance"),
    [("audio/pcm", 16_000, 0.02), ("audio/pcmu", 8000, 0.05), ("audio/pcma", 8000, 0.05)],
)
async def test_other_formats(echo: Live, kind: str, rate: int, tolerance: float) -> None:
    t = np.arange(2 * rate) / rate
    sound = (0.3 * np.sin(2 * np.pi * 500 * t)).astype(np.float32)
    laws: dict[str, g711.Law] = {"audio/pcmu": "mulaw", "audio/pcma": "alaw"}

    def coded(samples: Any) -> bytes:
        if kind in laws:
            return bytes(g711.encode(samples, laws[kind]))
        return bytes((samples * 32767).astype("<i2").tobytes())

    path = f"{PATH}?pace=none"
    async with live_session(echo, path, audio={"format": {"type": kind, "rate": rate}}) as client:
        assert client.seen[0]["session"]["audio"]["format"] == {"type": kind, "rate": rate}
        # Pieces of 20 ms, as telephones send them.
        for at in range(0, len(sound), rate // 50):
            audio = base64.b64encode(coded(sound[at : at + rate // 50])).decode()
            await client.say("session.input_audio.append", audio=audio)
        heard = b""
        while len(heard) < len(coded(sound)) * 9 // 10:
            heard += base64.b64decode((await client.find("session.output_audio.delta"))["delta"])
        check(client.seen)
    back = g711.decode(heard, laws[kind]) if kind in laws else from_pcm16([heard])
    middle = back[rate // 4 : -rate // 4]
    # As loud as before and of the same pitch.
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=tolerance)
    assert pitch(middle) * rate / RATE == pytest.approx(500, abs=2)


async def test_samples_may_be_cut_anywhere(echo: Live) -> None:
    sound = tone(3)
    whole = base64.b64decode(base64_pcm(sound))
    async with live_session(echo, f"{PATH}?pace=none") as client:
        for at in range(0, len(whole), 777):
            audio = base64.b64encode(whole[at : at + 777]).decode()
            await client.say("session.input_audio.append", audio=audio)
        np.testing.assert_allclose(await sounds(client, 3), sound, atol=2e-4)


async def test_a_caller_may_be_muted(echo: Live) -> None:
    async with live_session(echo, f"{PATH}?pace=none") as client:
        await client.say("session.input_audio.mute", event_id="m")
        muted = await client.find("session.input_audio.muted")
        assert muted["client_event_id"] == "m"
        await client.say("session.input_audio.append", audio=base64_pcm(tone(1)))
        await client.say("session.input_audio.unmute")
        await client.find("session.input_audio.unmuted")
        await client.say("session.input_audio.append", audio=base64_pcm(tone(1, 440)))
        # What was said while muted is silence.
        np.testing.assert_allclose(await sounds(client, 1), tone(1, 440), atol=2e-4)
        check(client.seen)


async def test_usage_is_told_every_ten_seconds_of_audio(echo: Live) -> None:
    async with live_session(echo, f"{PATH}?pace=none") as client:
        audio = base64_pcm(np.zeros(13 * FRAME, np.float32))
        for _ in range(20):
            await client.say("session.input_audio.append", audio=audio)
        usage = [await client.find("session.usage.updated") for _ in range(2)]
        assert [told["usage"]["seconds"] for told in usage] == [10, 20]
        check(client.seen)


async def test_text_has_exact_times(tiny: Live) -> None:
    async with live_session(tiny, f"{PATH}?pace=none") as client:
        assert client.seen[0]["session"]["model"] == tiny.engine.name
        audio = base64_pcm(np.zeros(10 * FRAME, np.float32))
        for _ in range(10):
            await client.say("session.input_audio.append", audio=audio)
        frames = 0
        while frames < 60:
            event = await client.hear()
            frames += event["type"] == "session.output_audio.delta"
            if event["type"] == "session.output_transcript.delta":
                # It comes right after the audio of its frame.
                assert event["start_ms"] == 80 * (frames - 1)
                assert event["end_ms"] == 80 * frames
        assert client.of("session.output_transcript.delta")
        check(client.seen)


async def test_members_without_effect_are_told_back(echo: Live) -> None:
    asked: dict[str, Any] = {
        "instructions": "Be brief \ud800.",
        "delegation": {"type": "client"},
        "store": False,
        "input": [],
        "audio": {"output": {"voice": {"id": "marin"}}},
    }
    async with live_session(echo, **asked) as client:
        session = client.seen[0]["session"]
        assert session["delegation"] == {"type": "client"}
        assert (session["store"], session["instructions"]) == (False, "Be brief \ud800.")
        assert session["audio"]["output"] == {"voice": "default"}
        await client.say("session.update", session={"delegation": None}, event_id="u")
        updated = await client.find("session.updated")
        assert updated["session"]["delegation"] is None
        assert updated["client_event_id"] == "u"


async def test_what_is_wrong_before_the_start_is_told_and_may_be_mended(echo: Live) -> None:
    async with talk(echo, PATH) as client:

        async def error() -> tuple[str, str | None]:
            told = (await client.find("error"))["error"]
            assert told["message"]
            return told["code"], told.get("param")

        await client.say("session.input_audio.append", audio="", event_id="early")
        assert await error() == ("session_not_started", None)
        assert client.seen[-1]["client_event_id"] == "early"
        await client.socket.send("no JSON")
        assert (await error())[0] == "invalid_event"
        for audio, param in (
            ({"format": {"type": "audio/pcm", "rate": 8000}}, "session.audio.format"),
            ({"format": "pcm16"}, "session.audio.format"),
            ("pcm", "session.audio"),
        ):
            await client.say("session.start", session={"model": "gpt-live-1", "audio": audio})
            assert await error() == ("invalid_value", param)
        await client.say("session.start", session={"model": "gpt-live-1", "input": 3})
        assert await error() == ("invalid_value", "session.input")
        await client.say("session.start")
        assert await error() == ("invalid_value", "session")
        assert echo.engine.readiness.slots_used == 0
        await client.say("session.start", session={"model": "echo"}, event_id="s")
        started = await client.find("session.started")
        assert started["client_event_id"] == "s"
        check(client.seen)


async def test_what_cannot_be_done_is_told_and_what_is_unknown_is_ignored(echo: Live) -> None:
    async with live_session(echo) as client:
        await client.say("session.unheard_of")
        await client.say("session.instructions.append", content="x", delegation_id=None)
        told = (await client.find("error"))["error"]
        assert told["code"] == "unsupported_operation"
        await client.say("session.start", session={"model": "gpt-live-1"})
        assert (await client.find("error"))["error"]["code"] == "session_already_started"
        for audio in (None, 3, "not base64!", ["AAAA"], "ä"):
            await client.say("session.input_audio.append", audio=audio)
            told = (await client.find("error"))["error"]
            assert (told["code"], told["param"]) == ("invalid_value", "audio")
        await client.find("session.output_audio.delta")
        check(client.seen)


async def test_another_model(echo: Live) -> None:
    async with talk(echo, PATH) as client:
        await client.say("session.start", session={"model": "whisper"})
        assert await client.gone() == (1008, "model_not_found")
        assert client.seen[-1]["error"]["code"] == "model_not_found"
        check(client.seen)


async def test_a_client_that_never_starts_holds_no_slot_and_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "START_SECONDS", 0.3)
    with running(slots=1, queue=0) as live:
        async with talk(live, PATH) as waiting:
            async with live_session(live):
                pass
            assert await waiting.gone() == (1008, "session_start_timeout")
            assert waiting.seen[-1]["error"]["code"] == "session_start_timeout"


async def test_without_room(echo: Live) -> None:
    with running(slots=1, queue=0) as live:
        async with talk(live, PATH) as late, call(live.url()):
            status, error, headers = await refusal(f"ws://127.0.0.1:{live.port}{PATH}")
            assert (status, error["code"]) == (503, "full")
            assert headers["retry-after"]
            await late.say("session.start", session={"model": "gpt-live-1"})
            assert await late.gone() == (1013, "full")
            assert late.seen[-1]["error"]["code"] == "capacity_exceeded"
            check(late.seen)


async def test_the_end_of_a_session_has_its_reason() -> None:
    with running(max_seconds=1) as live:
        async with live_session(live) as client:
            assert await client.gone() == (1000, "expired")
            assert client.seen[-1]["type"] == "session.closed"
            assert client.seen[-1]["reason"] == "expired"
            check(client.seen)
    with running(drain_seconds=1) as live:
        async with live_session(live) as client:
            live.drain()
            assert await client.gone() == (1001, "drain")
            assert [event["code"] for event in client.of("info")] == ["server_draining"]
            assert client.seen[-1]["reason"] == "expired"
            check(client.seen)


async def test_keys_come_by_every_way(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("voice", protocols=("live",))
    other = make_key("other", protocols=("kyutai",))
    with running(keys=str(key_path)) as live:
        url = f"ws://127.0.0.1:{live.port}{PATH}"
        start = json.dumps({"type": "session.start", "session": {"model": "gpt-live-1"}})
        ways: list[dict[str, Any]] = [
            {"additional_headers": {"Authorization": f"Bearer {key}"}},
            {"additional_headers": {"api-key": key}},
            {"additional_headers": {"kyutai-api-key": key}},
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]},
        ]
        for way in ways:
            async with talk(live, PATH, **way) as client:
                await client.socket.send(start)
                await client.find("session.started")
                # The one that was offered, and never the one with the key.
                assert client.socket.subprotocol == way.get("subprotocols", [None])[0]
                assert live.ask("/v1/sessions", key=key).status in (200, 403)
        token = live.ask("/v1/tokens", "POST", key=key).json["token"]
        async with talk(live, f"{PATH}?token={token}") as client:
            await client.socket.send(start)
            await client.find("session.started")
        assert (await refusal(url))[0] == 401
        assert (await refusal(url, Authorization=f"Bearer {other}"))[0] == 403


async def test_a_revoked_key_ends_its_session(key_path: Path, make_key: MakeKey) -> None:
    from kaiwa.server import key_edits

    key = make_key("voice")
    with running(keys=str(key_path)) as live:
        headers = {"Authorization": f"Bearer {key}"}
        async with talk(live, PATH, additional_headers=headers) as client:
            await client.say("session.start", session={"model": "gpt-live-1"})
            await client.find("session.started")
            key_edits.revoke(key_path, "voice", time.time())
            assert await client.gone() == (1008, "revoked")
            assert client.of("error")[-1]["error"]["code"] == "revoked"
            check(client.seen)


async def test_a_client_that_reads_nothing_for_a_while_harms_nobody(echo: Live) -> None:
    async with live_session(echo) as slow, live_session(echo) as other:
        slow.socket.transport.pause_reading()
        for _ in range(5):
            await other.find("session.output_audio.delta")
        slow.socket.transport.resume_reading()
        await slow.find("session.output_audio.delta")

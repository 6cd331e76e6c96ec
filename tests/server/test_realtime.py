"""OpenAI's Realtime protocol on the wire: session, turns, responses, items, errors, dialects."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents.realtime.openai_realtime import get_server_event_type_adapter
from tests.server.conftest import MakeKey
from tests.server.live import At, Live, running
from tests.server.openai_calls import Talk, base64_pcm, sounds, talk
from tests.server.wire import FRAME, call, refusal, tone

from kaiwa import g711
from kaiwa.server.protocols.realtime import protocol

PATH = "/v1/realtime"
#: What the strictest of the clients takes as an event of a server.
EVENTS = get_server_event_type_adapter()
AUDIO = "response.output_audio.delta"
SILENCE = np.zeros(FRAME, np.float32)
#: The order in which a response is told.
BEGINS = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
ENDS = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


def check(events: list[dict[str, Any]]) -> None:
    """Every event is one of the protocol's, with all that it has to have."""
    names = [event["event_id"] for event in events]
    assert len(set(names)) == len(names)
    for event in events:
        assert EVENTS.validate_python(event).type == event["type"]


@asynccontextmanager
async def session(at: At, path: str = f"{PATH}?pace=none", **options: Any) -> AsyncIterator[Talk]:
    """A session that begins; what the server sent is checked in the end."""
    async with talk(at, path, **options) as client:
        assert (await client.hear())["type"] == "session.created"
        yield client
        if not options:
            check(client.seen)


async def say(client: Talk, *frames: Any) -> None:
    for frame in frames:
        await client.say("input_audio_buffer.append", audio=base64_pcm(frame))


async def quiet(client: Talk) -> None:
    """No events about the caller's speech."""
    await client.say(
        "session.update",
        session={"type": "realtime", "audio": {"input": {"turn_detection": None}}},
    )
    await client.find("session.updated")


def without_deltas(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events if not event["type"].endswith(".delta")]


async def test_a_session_is_told_as_it_is(echo: Live) -> None:
    async with session(echo) as client:
        told = client.seen[0]["session"]
        assert (told["type"], told["model"]) == ("realtime", "echo")
        assert told["audio"]["input"]["turn_detection"]["interrupt_response"] is False
        asked = {
            "type": "realtime",
            "instructions": "be brief",
            "output_modalities": ["text"],
            "tools": [{"type": "function", "name": "f"}],
            "tracing": "auto",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcmu"},
                    "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
                    "transcription": {"model": "whisper-1"},
                },
                "output": {"voice": "marin", "speed": 1.5},
            },
        }
        await client.say("session.update", session=asked)
        told = (await client.find("session.updated"))["session"]
        assert told["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        assert told["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
        assert told["audio"]["input"]["turn_detection"]["interrupt_response"] is True
        assert told["audio"]["input"]["transcription"] is None
        assert told["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}
        assert (told["tools"], told["tracing"], told["output_modalities"]) == ([], None, ["audio"])
        # What is not named stays.
        await client.say("session.update", session={"type": "realtime"})
        again = (await client.find("session.updated"))["session"]
        assert again == told
        (row,) = echo.ask("/v1/sessions").json["sessions"]
        assert row["protocol"] == "realtime"


async def test_a_turn_of_the_model_is_a_response(echo: Live) -> None:
    sound = tone(6)
    async with session(echo) as client:
        await quiet(client)
        before = len(client.seen)
        await say(client, SILENCE, SILENCE, *np.split(sound, 6), *[SILENCE] * 12)
        done = await client.find("response.done")
        turn = client.seen[before:]
        assert without_deltas(turn) == [*BEGINS, *ENDS]
        assert all(event["type"] == AUDIO for event in turn[4:-6])
        heard = b"".join(base64.b64decode(event["delta"]) for event in turn[4:-6])
        samples = np.frombuffer(heard, "<i2").astype(np.float32) / 32768
        # Two frames before the sound, the sound, and the pause that ended it.
        assert len(samples) == (1 + 6 + 10) * FRAME
        np.testing.assert_allclose(samples[FRAME : 7 * FRAME], sound, atol=2e-4)
        response = done["response"]
        assert (response["status"], response["metadata"]) == ("completed", None)
        (item,) = response["output"]
        assert item["content"] == [{"type": "output_audio", "transcript": ""}]
        assert response["usage"]["output_token_details"] == {"text_tokens": 0, "audio_tokens": 17}
        # The next one has names of its own, and follows the first.
        await say(client, *np.split(sound, 6), *[SILENCE] * 12)
        added = await client.find("conversation.item.added")
        assert added["previous_item_id"] == item["id"]
        assert (await client.find("response.done"))["response"]["id"] != response["id"]


async def test_a_client_may_ask_for_the_times_of_what_was_said(echo: Live, tiny: Live) -> None:
    async with session(echo, f"{PATH}?pace=none&extensions=1") as client:
        await quiet(client)
        await say(client, *[SILENCE] * 5, *np.split(tone(6), 6), *[SILENCE] * 12)
        await client.find("response.done")
        assert [event["start_ms"] for event in client.of(AUDIO)] == [80 * n for n in range(4, 21)]
    async with session(tiny, f"{PATH}?pace=none&extensions=1") as client:
        await say(client, *[SILENCE] * 60)
        text = await client.find("response.output_audio_transcript.delta")
        assert (await client.find(AUDIO))["start_ms"] <= text["start_ms"]
    async with session(echo) as client:
        await say(client, *np.split(tone(6), 6))
        assert "start_ms" not in await client.find(AUDIO)


async def test_text_comes_before_the_audio_of_its_frame(tiny: Live) -> None:
    async with session(tiny) as client:
        await quiet(client)
        await say(client, *[SILENCE] * 60)
        seen = ""
        while len(client.of(AUDIO)) < 20:
            event = await client.hear()
            if event["type"] == "response.output_audio_transcript.delta":
                seen += event["delta"]
        await client.say("response.cancel")
        done = await client.find("response.done")
        (part,) = done["response"]["output"][0]["content"]
        assert part["type"] == "output_audio"
        # The random model says something in nearly every frame.
        assert part["transcript"].startswith(seen)
        assert seen
        kinds = [event["type"] for event in client.seen if event["type"].endswith(".delta")]
        assert kinds[0] == "response.output_audio_transcript.delta" or AUDIO in kinds[:3]


async def test_a_response_that_was_asked_for_is_the_next_turn(echo: Live) -> None:
    async with session(echo) as client:
        await quiet(client)
        metadata = {"client_event_id": "mine"}
        await client.say("response.create", response={"metadata": metadata})
        created = await client.find("response.created")
        assert created["response"]["metadata"] == metadata
        await client.say("response.create", event_id="again")
        error = (await client.find("error"))["error"]
        assert error["code"] == "conversation_already_has_active_response"
        assert error["event_id"] == "again"
        await say(client, *np.split(tone(3), 3), *[SILENCE] * 12)
        done = await client.find("response.done")
        assert done["response"]["id"] == created["response"]["id"]
        assert done["response"]["metadata"] == metadata
        assert len(done["response"]["output"]) == 1
        assert len(client.of("response.created")) == 1


async def test_a_response_that_the_model_has_nothing_for_is_empty(
    echo: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "RESPONSE_FRAMES", 5)
    async with session(echo) as client:
        await quiet(client)
        await client.say("response.create")
        await say(client, *[SILENCE] * 7)
        response = (await client.find("response.done"))["response"]
        assert (response["status"], response["output"]) == ("completed", [])


async def test_a_cancelled_response_ends_at_once_and_is_not_heard_on(echo: Live) -> None:
    async with session(echo) as client:
        await quiet(client)
        await client.say("response.cancel", event_id="c")
        error = (await client.find("error"))["error"]
        assert error["code"] == "response_cancel_not_active"
        assert error["message"].startswith("Cancellation failed")
        await say(client, *np.split(tone(3), 3))
        await client.find(AUDIO)
        await client.say("response.cancel")
        response = (await client.find("response.done"))["response"]
        assert response["status"] == "cancelled"
        assert response["status_details"]["reason"] == "client_cancelled"
        heard = len(client.of(AUDIO))
        await say(client, *np.split(tone(3), 3), *[SILENCE] * 12, *np.split(tone(2, 440), 2))
        await client.find("response.created")
        # Nothing of the muted turn came; the next one is heard.
        assert len(client.of(AUDIO)) == heard
        np.testing.assert_allclose(await sounds(client, 1, AUDIO), tone(2, 440)[:FRAME], atol=2e-4)


async def test_what_was_sent_becomes_an_item(echo: Live) -> None:
    async with session(echo) as client:
        await quiet(client)
        await client.say("input_audio_buffer.commit", event_id="none")
        error = (await client.find("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "none")
        await say(client, SILENCE)
        await client.say("input_audio_buffer.commit")
        committed = await client.find("input_audio_buffer.committed")
        added = await client.find("conversation.item.added")
        await client.find("conversation.item.done")
        assert added["item"]["id"] == committed["item_id"]
        assert added["item"]["content"][0]["type"] == "input_audio"
        await say(client, SILENCE)
        await client.say("input_audio_buffer.clear")
        await client.find("input_audio_buffer.cleared")
        await client.say("input_audio_buffer.commit")
        await client.find("error")


async def test_input_that_is_cleared_is_not_heard(echo: Live) -> None:
    """A frame without its last sample cannot have been heard yet; nor half of a sample."""
    sound = tone(6)
    async with session(echo) as client:
        await quiet(client)
        await client.say("input_audio_buffer.append", audio=base64_pcm(tone(1, 1200)[:-1]))
        await client.say("input_audio_buffer.append", audio="AA==")
        await client.say("input_audio_buffer.clear")
        await client.find("input_audio_buffer.cleared")
        await say(client, SILENCE, SILENCE, *np.split(sound, 6), *[SILENCE] * 12)
        await client.find("response.done")
        heard = b"".join(base64.b64decode(event["delta"]) for event in client.of(AUDIO))
        samples = np.frombuffer(heard, "<i2").astype(np.float32) / 32768
        np.testing.assert_allclose(samples[FRAME : 7 * FRAME], sound, atol=2e-4)
        assert not samples[:FRAME].any()


async def test_items_are_kept_for_the_client(echo: Live) -> None:
    def message(text: str, **members: Any) -> dict[str, Any]:
        content = [{"type": "input_text", "text": text}]
        return {"type": "message", "role": "user", "content": content, **members}

    async with session(echo) as client:
        await quiet(client)
        await client.say("conversation.item.create", item=message("one", id="a"))
        added = await client.find("conversation.item.added")
        assert (added["item"]["id"], added["previous_item_id"]) == ("a", None)
        await client.say("conversation.item.create", item=message("three"))
        third = await client.find("conversation.item.added")
        assert third["previous_item_id"] == "a"
        second = {"type": "function_call_output", "call_id": "c", "output": "2", "id": "b"}
        await client.say("conversation.item.create", item=second, previous_item_id="a")
        assert (await client.find("conversation.item.added"))["previous_item_id"] == "a"
        await client.say("conversation.item.retrieve", item_id="a")
        item = (await client.find("conversation.item.retrieved"))["item"]
        assert item["content"] == [{"type": "input_text", "text": "one"}]
        await client.say("conversation.item.create", item=message("again", id="a"))
        assert (await client.find("error"))["error"]["code"] == "item_create_duplicate_item_id"
        await client.say("conversation.item.truncate", item_id="a", content_index=0, audio_end_ms=9)
        assert (await client.find("conversation.item.truncated"))["audio_end_ms"] == 9
        await client.say("conversation.item.delete", item_id="a")
        await client.find("conversation.item.deleted")
        await client.say("conversation.item.retrieve", item_id="a", event_id="r")
        error = (await client.find("error"))["error"]
        assert (error["code"], error["event_id"]) == ("item_retrieve_invalid_item_id", "r")
        await client.say("output_audio_buffer.clear")
        await client.find("output_audio_buffer.cleared")


async def test_the_callers_speech_is_told_and_a_response_ends_before_it(
    echo: Live, voice: np.ndarray
) -> None:
    """The echo speaks while its caller does: what interrupts and what does not."""
    frames = np.split(voice[: len(voice) // FRAME * FRAME], len(voice) // FRAME)
    for interrupts in (True, False):
        async with session(echo) as client:
            # The response is open before anybody listens to the caller.
            await quiet(client)
            await say(client, *np.split(tone(3), 3))
            await client.find(AUDIO)
            detection = {"type": "server_vad", "interrupt_response": interrupts}
            await client.say(
                "session.update",
                session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}},
            )
            await client.find("session.updated")
            await say(client, *frames, *[SILENCE] * 20)
            await client.find("input_audio_buffer.committed")
            await client.find("conversation.item.done")
            kinds = without_deltas(client.seen)
            started = kinds.index("input_audio_buffer.speech_started")
            assert kinds.index("response.done") < started
            (begins,) = client.of("input_audio_buffer.speech_started")
            (ends,) = client.of("input_audio_buffer.speech_stopped")
            assert begins["item_id"] == ends["item_id"]
            assert begins["audio_start_ms"] < ends["audio_end_ms"]
            first = client.of("response.done")[0]["response"]
            if interrupts:
                assert first["status_details"]["reason"] == "turn_detected"
            else:
                assert first["status"] == "completed"


async def test_unknown_and_malformed_events_do_not_end_a_session(echo: Live) -> None:
    async with session(echo) as client:
        await client.say("session.unheard_of")
        await client.say("input_audio_buffer.append", audio=3)
        assert (await client.find("error"))["error"]["code"] == "invalid_value"
        await client.socket.send("[]")
        assert (await client.find("error"))["error"]["code"] == "invalid_event"
        update = {"type": "realtime", "audio": {"output": {"format": {"type": "audio/mp3"}}}}
        await client.say("session.update", session=update)
        assert (await client.find("error"))["error"]["param"] == "session.audio.output.format"
        await client.find("session.updated")
        await client.socket.send(json.dumps({"type": "response.cancel"}).encode())
        assert (await client.find("error"))["error"]["code"] == "response_cancel_not_active"


async def test_g711_on_the_way_out(echo: Live) -> None:
    async with session(echo) as client:
        out = {"format": {"type": "audio/pcma"}}
        await client.say("session.update", session={"type": "realtime", "audio": {"output": out}})
        told = (await client.find("session.updated"))["session"]["audio"]["output"]
        assert told["format"] == {"type": "audio/pcma"}
        await say(client, *np.split(tone(12), 12), *[SILENCE] * 20)
        await client.find("response.done")
        sent = sum(len(base64.b64decode(event["delta"])) for event in client.of(AUDIO))
        frames = client.of("response.done")[0]["response"]["usage"]["input_tokens"]
        assert sent <= frames * 640
        assert sent > 0


async def test_the_older_dialect(echo: Live) -> None:
    for options in (
        {"additional_headers": {"OpenAI-Beta": "realtime=v1"}},
        {"subprotocols": ["realtime", "openai-beta.realtime-v1"]},
    ):
        async with session(echo, **options) as client:
            told = client.seen[0]["session"]
            assert told["input_audio_format"] == "pcm16"
            assert told["modalities"] == ["audio", "text"]
            assert "type" not in told
            asked = {"output_audio_format": "g711_ulaw", "turn_detection": None}
            await client.say("session.update", session=asked)
            told = (await client.find("session.updated"))["session"]
            assert told["output_audio_format"] == "g711_ulaw"
            assert told["turn_detection"] is None
            await say(client, *np.split(tone(12), 12), *[SILENCE] * 20)
            done = await client.find("response.done")
            assert done["response"]["output_audio_format"] == "g711_ulaw"
            assert done["response"]["output"][0]["content"][0]["type"] == "audio"
            kinds = {event["type"] for event in client.seen}
            assert {"response.audio.delta", "response.audio.done"} <= kinds
            assert "conversation.item.created" in kinds
            assert not {kind for kind in kinds if "output_audio." in kind or ".added" in kind} - {
                "response.output_item.added",
                "response.content_part.added",
            }
            (row,) = echo.ask("/v1/sessions").json["sessions"]
            assert row["protocol"] == "realtime_beta"


async def test_who_is_refused(echo: Live) -> None:
    url = f"ws://127.0.0.1:{echo.port}{PATH}"
    status, error, _ = await refusal(f"{url}?model=whisper")
    assert (status, error["code"]) == (404, "model_not_found")
    async with session(echo, f"{PATH}?model=gpt-realtime"):
        pass
    with running(slots=1, queue=0) as live:
        async with call(live.url()):
            status, error, headers = await refusal(f"ws://127.0.0.1:{live.port}{PATH}")
            assert (status, error["code"]) == (503, "full")
            assert headers["retry-after"]


async def test_how_sessions_end() -> None:
    with running(max_seconds=1) as live:
        async with session(live) as client:
            assert await client.gone() == (1001, "expired")
            assert client.seen[-1]["error"]["code"] == "session_expired"
    with running(drain_seconds=0.2) as live:
        async with session(live) as client:
            live.drain()
            assert await client.gone() == (1001, "drain")
            assert client.seen[-1]["error"]["code"] == "session_expired"


# ---- secrets -------------------------------------------------------------------------------------


def post(live: Live, key: str | None, body: Any = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request("POST", "/v1/realtime/client_secrets", data, headers)
        got = connection.getresponse()
        return got.status, json.loads(got.read())


async def test_a_secret_opens_calls_for_a_while(
    key_path: Path, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key("voice", protocols=("realtime",), concurrency=1)
    with running(keys=str(key_path)) as live:
        url = f"ws://127.0.0.1:{live.port}{PATH}"
        status, told = post(live, key, {"expires_after": {"anchor": "created_at", "seconds": 100}})
        assert status == 200
        secret = told["value"]
        assert secret.startswith("ek_")
        assert 90 < told["expires_at"] - time.time() <= 100
        assert told["session"]["type"] == "realtime"
        offered = ["realtime", f"openai-insecure-api-key.{secret}"]
        for _ in range(2):
            async with talk(live, PATH, subprotocols=offered) as client:
                assert (await client.hear())["type"] == "session.created"
                assert client.socket.subprotocol == "realtime"
                # The limits are those of the key.
                again = await refusal(url, Authorization=f"Bearer {secret}")
                assert (again[0], again[1]["code"]) == (429, "key_concurrency")
        # It is no key: it lists nothing and makes neither tokens nor secrets.
        assert live.ask("/v1/tokens", "POST", key=secret).status == 403
        assert post(live, secret)[0] == 403
        for wrong in (secret[:-2] + "AA", "ek_", "ek_x.y", secret + "x"):
            assert (await refusal(url, Authorization=f"Bearer {wrong}"))[0] == 401
        assert post(live, None)[0] == 401
        # A key for another protocol gets none.
        assert post(live, make_key("other", protocols=("kyutai",)))[0] == 403
        now = time.time()
        monkeypatch.setattr(live.parts.access._secrets, "_wall", lambda: now + 200)
        assert (await refusal(url, Authorization=f"Bearer {secret}"))[0] == 401


@pytest.mark.parametrize("keys", [True, False])
async def test_sessions_of_a_secret_begin_as_it_says(
    keys: bool, key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("voice")
    with running(keys=str(key_path) if keys else None) as live:
        audio = {
            "input": {
                "format": {"type": "audio/pcma"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
        }
        asked = {"type": "realtime", "audio": audio, "instructions": "x" * 10_000}
        secret = post(live, key, {"session": asked})[1]["value"]
        assert len(secret) < 1000
        headers = {"Authorization": f"Bearer {secret}"}
        async with talk(live, PATH, additional_headers=headers) as client:
            begun = (await client.hear())["session"]["audio"]
            assert begun["input"]["format"] == {"type": "audio/pcma"}
            assert begun["input"]["turn_detection"]["silence_duration_ms"] == 200
            assert begun["input"]["turn_detection"]["interrupt_response"] is True
            assert begun["output"]["format"] == {"type": "audio/pcmu"}
            # The first audio is in these formats, though the client has set nothing.
            loud = g711.encode(tone(6)[::3].copy(), "alaw")
            await client.say("input_audio_buffer.append", audio=base64.b64encode(loud).decode())
            data = base64.b64decode((await client.find(AUDIO))["delta"])
            assert len(data) == FRAME // 3
        # What a client sets counts more.
        async with talk(live, PATH, additional_headers=headers) as client:
            flat = {"output_audio_format": "pcm16", "turn_detection": None}
            await client.say("session.update", session=flat)
            told = (await client.find("session.updated"))["session"]["audio"]
            assert told["output"]["format"]["type"] == "audio/pcm"
            assert told["input"]["turn_detection"] is None
            assert told["input"]["format"] == {"type": "audio/pcma"}
        for session, wanted in (
            ({}, {"type": "audio/pcmu", "rate": 8000}),
            ({"audio": {"format": {"type": "audio/pcm"}}}, {"type": "audio/pcm", "rate": 24_000}),
        ):
            async with talk(live, "/v1/live/sessions", additional_headers=headers) as client:
                await client.say("session.start", session={"model": "gpt-live-1", **session})
                started = await client.find("session.started")
                assert started["session"]["audio"]["format"] == wanted
        # A secret that was asked for without a session leaves sessions as they are.
        plain = {"Authorization": f"Bearer {post(live, key)[1]['value']}"}
        async with talk(live, PATH, additional_headers=plain) as client:
            begun = (await client.hear())["session"]["audio"]["input"]
            assert begun["format"] == {"type": "audio/pcm", "rate": 24_000}
            assert begun["turn_detection"]["interrupt_response"] is False


async def test_a_secret_that_a_page_asked_for_is_for_that_page(
    key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("voice")
    page, other = "https://a.example", "https://b.example"
    with running(keys=str(key_path), origin=(page, other)) as live:
        secret = post(live, key, Origin=page)[1]["value"]
        headers = {"Authorization": f"Bearer {secret}"}
        async with talk(live, PATH, additional_headers={**headers, "Origin": page}) as client:
            assert (await client.hear())["type"] == "session.created"
        async with talk(live, PATH, additional_headers={**headers, "Origin": other}) as client:
            # Pages cannot read statuses: they are told by a message.
            assert (await client.hear())["error"]["code"] == "bad_token"
            assert (await client.gone())[0] == 1008


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 400, "bad_parameter"),
        (b"{", 400, "bad_parameter"),
        ({"expires_after": 5}, 400, "bad_parameter"),
        ({"expires_after": {"seconds": 5}}, 400, "bad_parameter"),
        ({"expires_after": {"seconds": "60"}}, 400, "bad_parameter"),
        ({"session": []}, 400, "bad_parameter"),
        ({"session": {"model": "whisper"}}, 404, "model_not_found"),
        ({"session": {"input_audio_format": "mp3"}}, 400, "bad_parameter"),
        (b" " * 300_000, 413, "too_large"),
    ],
)
def test_what_no_secret_is_made_for(echo: Live, body: Any, status: int, code: str) -> None:
    got, told = post(echo, None, body)
    assert (got, told["error"]["code"]) == (status, code)
    assert told["error"]["message"]


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Somebody who speaks for more than a second."""
    from tests.demo.call import ask
    from tests.demo.conftest import DATA
    from training.conversations import Callers

    from training import callers

    asked = ask(Callers(callers.read(DATA)), "espeak:m3", [8, 1, 7], tail=0)
    return np.asarray(asked.audio[2 * 24_000 :])

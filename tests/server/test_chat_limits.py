"""Who gets a slot of a running server, and how calls end that do not end themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

import numpy as np
import pytest
from tests.server.live import Live, eventually, running
from tests.server.wire import AUDIO, FRAME, METADATA, TEXT, Call, call, pages, refusal, tone

import kaiwa
from kaiwa.server import run
from kaiwa.server.call import slow_client

FILE = {"format": "pcm", "pace": "none"}
SILENCE = bytes(2 * FRAME)


def ended(live: Live, reason: str) -> float:
    """Calls that ended for a reason."""
    name = "kaiwa_conversations_ended_total"
    return live.metric(f'{name}{{protocol="kyutai",reason="{reason}"}}')


def rejected(live: Live, reason: str) -> float:
    name = "kaiwa_admission_rejected_total"
    return live.metric(f'{name}{{protocol="kyutai",reason="{reason}"}}')


# ---- slots and the queue -----------------------------------------------------------------------


async def test_a_full_server_queues_and_then_refuses() -> None:
    with running(slots=1, queue=1) as live:
        async with call(live.url()) as first, call(live.url(), begin=False) as second:
            await eventually(lambda: live.engine.readiness.queue == 1)
            status, error, headers = await refusal(live.url())
            assert status == 503
            assert (error["type"], error["code"]) == ("server_error", "full")
            assert headers["retry-after"] == "5"
            assert rejected(live, "full") == 1
            ready = live.ask("/readyz")
            assert (ready.status, ready.json["state"]) == (503, "full")
            assert ready.headers["retry-after"] == "5"
            assert live.ask("/healthz").status == 200
            await first.socket.close()
            await second.begin()
            assert live.engine.readiness.slots_used == 1


async def test_waiting_has_an_end() -> None:
    with running(slots=1, queue_seconds=0.2) as live:
        async with call(live.url()), call(live.url(), begin=False) as second:
            assert await second.gone() == (1013, "full")
            assert "conversations are taken" in second.said[0]
            assert rejected(live, "full") == 1


async def test_who_leaves_the_queue_takes_no_slot() -> None:
    with running(slots=1) as live:
        async with call(live.url()) as first:
            async with call(live.url(), begin=False) as second:
                await eventually(lambda: live.engine.readiness.queue == 1)
                second.cut()
                await eventually(lambda: live.engine.readiness.queue == 0)
            await first.socket.close()
        await eventually(lambda: live.quiet)


async def test_browsers_are_told_by_a_message_and_a_close() -> None:
    with running(slots=1, queue=0) as live:
        page = {"Origin": f"http://127.0.0.1:{live.port}"}
        async with call(live.url(), additional_headers=page):
            async with call(live.url(), begin=False, additional_headers=page) as full:
                assert await full.gone() == (1013, "full")
            assert "taken" in full.said[0]
            bad = live.url(seed="x")
            async with call(bad, begin=False, additional_headers=page) as wrong:
                assert await wrong.gone() == (1008, "bad_parameter")
            assert "seed" in wrong.said[0]
            assert len(full.seen) == len(wrong.seen) == 1
            live.drain()
            await eventually(lambda: live.state.draining)
            async with call(live.url(), begin=False, additional_headers=page) as late:
                assert await late.gone() == (1012, "draining")


@pytest.mark.parametrize("origin", ["http://example.com", "null", "http://127.0.0.1:1", "http://["])
async def test_pages_of_others_are_refused(echo: Live, origin: str) -> None:
    status, error, _ = await refusal(echo.url(), Origin=origin)
    assert (status, error["code"]) == (403, "origin")
    answer = echo.ask("/v1/info", Origin=origin)
    assert (answer.status, answer.json["error"]["code"]) == (403, "origin")


async def test_another_name_of_this_machine_is_refused(echo: Live) -> None:
    answer = echo.ask("/v1/info", Host="kaiwa.example.com")
    assert (answer.status, answer.json["error"]["code"]) == (403, "host")


# ---- limits of a call --------------------------------------------------------------------------


async def test_a_call_ends_at_its_time() -> None:
    with running(max_seconds=0.5) as live:
        async with call(live.url(), begin=False) as chat:
            assert (await chat.begin())["max_seconds"] == 0.5
            assert await chat.gone() == (1000, "expired")
        assert "time limit" in chat.said[0]
        assert ended(live, "expired") == 1


async def test_a_call_without_audio_ends() -> None:
    with running(idle_seconds=0.5) as live:
        async with call(live.url(**FILE)) as chat:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                await chat.say(SILENCE)
                await chat.frames(1)
            assert not chat.said
            assert await chat.gone() == (1000, "idle")
        assert "no audio" in chat.said[0]
        assert ended(live, "idle") == 1


async def test_input_that_is_much_too_fast_ends_the_call(echo: Live) -> None:
    async with call(echo.url(format="pcm")) as chat:
        with contextlib.suppress(Exception):
            for _ in range(100):
                await chat.say(SILENCE * 2)
        assert await chat.gone() == (1008, "input_too_fast")
    assert "real time" in chat.said[0]
    assert echo.metric('kaiwa_frames_total{direction="in",kind="dropped_input"}') > 50


def small_socket(live: Live) -> socket.socket:
    """A connected socket that takes little."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", live.port))
    return made


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "STUCK_CLIENT", 0.5)
    with running(slots=1) as live:
        # 48 kB of audio a second against buffers of some 64 kB; and a second call waits.
        url = live.url(format="pcm", clock="server")
        async with call(url, max_queue=1, sock=small_socket(live)) as stuck:
            async with call(live.url(), begin=False) as other:
                await other.begin()
            assert ended(live, "slow_consumer") == 1
            stuck.cut()


async def test_a_client_that_reads_too_late_is_told() -> None:
    with running() as live:
        url = live.url(format="pcm", clock="server")
        async with call(url, max_queue=1, sock=small_socket(live)) as slow:
            name = 'kaiwa_frames_total{direction="out",kind="dropped_output"}'
            await eventually(lambda: live.metric(name) > 0, "output is dropped")
            live.clock.jump(slow_client.STUCK_CLIENT)
            await eventually(lambda: ended(live, "slow_consumer") == 1)
            assert await slow.gone() == (1008, "slow_consumer")
        assert "read faster" in slow.said[0]


def quick_to_notice(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Shorter times for a client that answers no pings."""
    monkeypatch.setattr(run, "PING_SECONDS", 0.1)
    for name, value in seconds.items():
        monkeypatch.setattr(slow_client, name, value)


async def test_answers_to_pings_tell_of_a_client_whose_system_still_takes_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick_to_notice(monkeypatch, SLOW_CLIENT=0.2, STUCK_CLIENT=1.0)
    with running() as live:
        began = time.monotonic()
        # Opus is so little that the buffers on the way would take half a minute of it.
        async with call(live.url(clock="server"), max_queue=1) as stuck:
            await eventually(lambda: ended(live, "slow_consumer") == 1)
            assert time.monotonic() - began < 5
            assert await stuck.gone() == (1008, "slow_consumer")
        assert "read faster" in stuck.said[0]


async def test_a_client_that_reads_again_has_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_to_notice(monkeypatch, SLOW_CLIENT=0.2)
    with running() as live:
        async with call(live.url(clock="server"), max_queue=1) as slow:
            name = 'kaiwa_frames_total{direction="out",kind="dropped_output"}'
            await eventually(lambda: live.metric(name) >= 10, "what is too old is dropped")
            waited = 0
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    await slow.find(AUDIO, 0.05)
                    waited += 1
            # 0.3 s on the line, and the eight frames that the engine keeps.
            assert waited <= 16
            await slow.frames(5)
            dropped = live.metric(name)
            await slow.frames(5)
            assert live.metric(name) == dropped


async def test_a_resumable_call_whose_client_takes_nothing_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick_to_notice(monkeypatch, SLOW_CLIENT=0.2, LOST_CLIENT=0.6)
    with running() as live:
        async with call(live.url(resumable=1, clock="server"), begin=False, max_queue=1) as lost:
            token = (await lost.begin())["resume_token"]
            # Its queue is full, so that it stops to read.
            await eventually(lambda: live.parts.held, "held")
            async with call(live.url(resume=token), begin=False) as again:
                assert (await again.begin())["resumed"] is True


async def test_an_operator_ends_a_call(echo: Live) -> None:
    async with call(echo.url(), begin=False) as chat:
        session = (await chat.begin())["session_id"]
        listed = echo.ask("/v1/sessions").json["sessions"]
        assert [(row["id"], row["state"], row["protocol"]) for row in listed] == [
            (session, "active", "kyutai")
        ]
        assert echo.ask(f"/v1/sessions/{session}", "DELETE").status == 204
        assert await chat.gone() == (1000, "closed")
    assert "operator" in chat.said[0]
    for wrong in (session, "999999", "x", "9" * 30, "-1", "%D9%A3"):
        assert echo.ask(f"/v1/sessions/{wrong}", "DELETE").status == 404


async def test_how_a_client_leaves_does_not_matter(echo: Live) -> None:
    before = ended(echo, "client")
    for code in (1000, 1001, 3000, 4999):
        async with call(echo.url()) as chat:
            await chat.socket.close(code)
    async with call(echo.url()) as chat:
        chat.cut()
    await eventually(lambda: ended(echo, "client") == before + 5)


# ---- lost connections --------------------------------------------------------------------------


async def answers(chat: Call, frames: list[bytes]) -> list[bytes]:
    """Says frames; gives the messages that answer them, the text of the last one included."""
    begin = len(chat.seen)
    await chat.say(*frames)
    await chat.frames(len(frames))
    with contextlib.suppress(asyncio.TimeoutError):
        await chat.message(0.15)
    return chat.seen[begin:]


def some_sound(frames: int) -> list[bytes]:
    rng = np.random.default_rng(5)
    return [rng.normal(0, 3000, FRAME).astype("<i2").tobytes() for _ in range(frames)]


async def lose(live: Live, chat: Call) -> None:
    """Breaks a connection; waits until the call is held."""
    chat.cut()
    await eventually(lambda: live.parts.held, "held")


async def test_a_lost_call_goes_on_where_it_stopped(tiny: Live) -> None:
    sound = some_sound(45)
    asked = {"seed": 3, **FILE}
    async with call(tiny.url(**asked)) as chat:
        undisturbed = await answers(chat, sound)
    async with call(tiny.url(resumable=1, **asked), begin=False) as chat:
        about = await chat.begin()
        assert about["resumed"] is False
        assert about["resume_seconds"] == 2
        first = await answers(chat, sound[:15])
        await lose(tiny, chat)
    rows = tiny.ask("/v1/sessions").json["sessions"]
    assert [(row["id"], row["state"]) for row in rows] == [(about["session_id"], "held")]
    # What it was begun with counts, not what is asked for now.
    again = tiny.url(resume=about["resume_token"], resumable=1, seed=99)
    async with call(again, begin=False) as chat:
        resumed = await chat.begin()
        assert resumed["resumed"] is True
        assert {**resumed, "resumed": False} == about
        second = await answers(chat, sound[15:30])
        await lose(tiny, chat)
    async with call(again) as chat:
        third = await answers(chat, sound[30:])
    assert first + second + third == undisturbed
    assert {message[0] for message in undisturbed} == {AUDIO, TEXT}
    await eventually(lambda: tiny.quiet)
    started = tiny.metric('kaiwa_conversations_started_total{protocol="kyutai"}')
    assert started == 2


async def test_a_new_ogg_stream_begins_after_a_loss(echo: Live) -> None:
    writer = kaiwa.OggOpusWriter()
    pieces = [writer.write(tone(1)) for _ in range(8)]
    async with call(echo.url(resumable=1, pace="none"), begin=False) as chat:
        token = (await chat.begin())["resume_token"]
        await chat.say(*pieces[:4])
        await chat.frames(4)
        await lose(echo, chat)
    async with call(echo.url(resume=token)) as chat:
        await chat.say(*pieces[4:])
        first = pages((await chat.frames(4))[0])
    assert [(page.flags, page.sequence) for page in first[:3]] == [(2, 0), (0, 1), (0, 2)]


async def test_a_resumed_call_keeps_its_time() -> None:
    with running(max_seconds=2, resume_seconds=5) as live:

        def age() -> float:
            (row,) = live.ask("/v1/sessions").json["sessions"]
            seconds: float = row["seconds"]
            return seconds

        async with call(live.url(resumable=1), begin=False) as chat:
            token = (await chat.begin())["resume_token"]
            await lose(live, chat)
        await eventually(lambda: age() >= 0.5)
        async with call(live.url(resume=token)) as chat:
            assert age() >= 0.5
            assert await chat.gone() == (1000, "expired")


async def test_a_hold_has_an_end() -> None:
    with running(slots=1, resume_seconds=0.4) as live:
        async with call(live.url(resumable=1), begin=False) as chat:
            token = (await chat.begin())["resume_token"]
            await lose(live, chat)
        assert live.engine.readiness.slots_used == 1
        await eventually(lambda: live.quiet)
        assert ended(live, "lost") == 1
        async with call(live.url(resume=token, resumable=1), begin=False) as chat:
            about = await chat.begin()
            assert about["resumed"] is False
            assert about["resume_token"] != token


@pytest.mark.parametrize("how", ["closed", "gone away", "not asked for"])
async def test_a_call_that_was_ended_is_not_held(echo: Live, how: str) -> None:
    async with call(echo.url(resumable=int(how != "not asked for")), begin=False) as chat:
        token = (await chat.begin())["resume_token"]
        assert (token is None) == (how == "not asked for")
        if how == "not asked for":
            chat.cut()
        else:
            await chat.socket.close(1000 if how == "closed" else 1001)
        await eventually(lambda: not echo.engine.readiness.slots_used)
    assert not echo.parts.held


async def test_many_connections_break_in_full_flow_and_each_call_is_held() -> None:
    """Whichever side notices first, the sender or the reader."""
    # However slow the machine: nobody has to wait for a slot, and no hold ends meanwhile.
    with running(model="synth:tiny", resume_seconds=30, step_budget_ms=10_000) as tiny:
        await break_many(tiny)


async def break_many(tiny: Live) -> None:
    """Three times eight calls whose connections break, and that are taken up again."""

    async def one() -> str:
        url = tiny.url(resumable=1, format="pcm", clock="server")
        async with call(url, begin=False) as chat:
            token: str = (await chat.begin())["resume_token"]
            await chat.frames(3)
            chat.cut()
            return token

    for _ in range(3):
        tokens = await asyncio.gather(*(one() for _ in range(8)))
        await eventually(lambda: len(tiny.parts.held) == 8, "all are held")
        for token in tokens:
            async with call(tiny.url(resume=token), begin=False) as chat:
                assert (await chat.begin())["resumed"] is True


async def test_a_held_call_can_be_ended(echo: Live) -> None:
    async with call(echo.url(resumable=1), begin=False) as chat:
        about = await chat.begin()
        await lose(echo, chat)
    assert echo.ask(f"/v1/sessions/{about['session_id']}", "DELETE").status == 204
    await eventually(lambda: echo.quiet)
    async with call(echo.url(resume=about["resume_token"]), begin=False) as chat:
        assert (await chat.begin())["resumed"] is False


async def test_states_are_json_with_position(echo: Live) -> None:
    async with call(echo.url(client="kaiwa"), begin=False) as chat:
        before: list[bytes] = []
        while not before or before[-1][0] != 0:
            before.append(await chat.message())
    assert all(m[0] == METADATA for m in before[:-1])
    assert all("state" in json.loads(m[1:]) for m in before[:-1])

"""Load: the report on records made by hand, and calls to a server that does as it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.client.server import FakeServer, serving

from kaiwa.client import loadtest
from kaiwa.client.loadtest import LoadTestOptions
from kaiwa.client.loadtest_report import CallRecord, report
from kaiwa.client.timeline import Timeline
from kaiwa.synth import voice

TIMES = [i * 0.08 for i in range(10)]


def record(delay: float = 0.05, answered: int = 10, **values: Any) -> CallRecord:
    """A call of ten frames, each answered after `delay`."""
    line = Timeline(sent=list(TIMES), answered=[at + delay for at in TIMES[:answered]])
    return CallRecord(wanted=10, waited=0.2, timeline=line, **values)


def test_calls_without_fault() -> None:
    figures = report([record(lateness=[0.001] * 10), record(0.06, texts=3)])
    assert figures["calls"] == {"asked": 2, "admitted": 2, "rejected": 0, "without_fault": 2}
    assert figures["endings"] == {"completed": 2}
    assert figures["handshake_wait_ms"] == {"p50": 200.0, "p99": 200.0, "max": 200.0}
    assert figures["frame_latency_ms"] == {"p50": 50.0, "p99": 60.0, "max": 60.0}
    assert figures["frames"] == {
        "wanted": 20,
        "sent": 20,
        "answered": 20,
        "missing": 0,
        "answered_of_wanted": 1.0,
    }
    assert figures["send_lateness_ms"]["p99"] == 1.0
    assert figures["texts"] == 3
    assert "answer_level_dbfs" not in figures


def test_rejected_calls_count() -> None:
    figures = report([record(), CallRecord(wanted=10, outcome="full")])
    assert figures["calls"] == {"asked": 2, "admitted": 1, "rejected": 1, "without_fault": 1}
    assert figures["frames"]["answered_of_wanted"] == 0.5
    assert figures["frames"]["missing"] == 0
    assert figures["endings"] == {"completed": 1, "full": 1}


def test_faults() -> None:
    late = record()
    late.timeline.answered[5:] = [at + 0.2 for at in TIMES[5:]]
    figures = report([record(answered=8), late, record(outcome="overloaded", skipped=2)])
    assert figures["calls"]["without_fault"] == 0
    assert figures["frames"]["missing"] == 2
    assert figures["frame_latency_ms"]["max"] == 200.0
    assert figures["playback_of_100_ms"] == {
        "underruns": 1,
        "calls_with_underruns": 1,
        "stalled_ms": 50.0,
    }
    assert figures["frames_skipped_by_driver"] == 2
    assert report([record(answered=8)], held_back=2)["calls"]["without_fault"] == 1


def test_no_call_at_all_was_answered() -> None:
    figures = report([CallRecord(wanted=10, outcome="unreachable")])
    assert figures["frame_latency_ms"] == {"p50": None, "p99": None, "max": None}
    assert figures["frames"]["answered_of_wanted"] == 0.0


def test_more_answers_than_questions_do_not_count() -> None:
    noisy = record()
    noisy.timeline.answered += [2.0] * 5
    assert report([noisy])["frames"]["answered_of_wanted"] == 1.0


def test_levels() -> None:
    loud = record(energy=1920 * 10 * 0.01)
    loud.timeline.receive(19_200, 1.0)
    assert report([loud, record(energy=0.0)])["answer_level_dbfs"] == -20.0


def test_audio_that_begins_again() -> None:
    pcm = np.arange(3000, dtype=np.float32)
    whole = np.concatenate(list(loadtest.looped(pcm, 5)))
    np.testing.assert_array_equal(whole, np.resize(pcm, 5 * 1920))
    assert loadtest.frames_in(10) == 125
    assert loadtest.frames_in(0.001) == 1


async def drive(
    server: FakeServer, count: int = 1, frames: int = 4, **values: Any
) -> list[CallRecord]:
    """Calls in this process."""
    options = LoadTestOptions(server.url, **values)
    outgoing = loadtest.prepare(loadtest.looped(voice(1.0), frames), options.format)
    return await loadtest.calls(options, outgoing, [0.0] * count)


@pytest.mark.parametrize("audio_format", ["opus", "pcm"])
@pytest.mark.parametrize("decode", [False, True])
async def test_calls(audio_format: Any, decode: bool) -> None:
    async with serving(delay=0.02, say={1: " word"}) as server:
        records = await drive(server, 3, format=audio_format, decode=decode)
    figures = report(records)
    assert figures["endings"] == {"completed": 3}
    assert (figures["frames"]["answered"], figures["frames"]["missing"]) == (12, 0)
    assert figures["texts"] == 3
    assert 20 <= figures["frame_latency_ms"]["p50"] < 1000
    assert ("answer_level_dbfs" in figures) == decode
    if decode:
        assert -40 < figures["answer_level_dbfs"] < -10
    assert [len(received) for received in server.received] == [4, 4, 4]
    assert server.received[0] == server.received[1]


async def test_frames_go_out_on_time() -> None:
    async with serving() as server:
        (done,) = await drive(server, format="pcm", frames=6)
    spent = done.timeline.sent[-1] - done.timeline.sent[0]
    assert spent > 0.38
    if not done.skipped:
        assert spent < 0.4 + 0.08
    assert len(done.lateness) == 6


async def test_no_more_slots() -> None:
    async with serving(slots=2) as server:
        records = await drive(server, 5, frames=2, format="pcm")
    figures = report(records)
    assert figures["calls"] == figures["calls"] | {"admitted": 2, "rejected": 3}
    assert figures["endings"] == {"full": 3, "completed": 2}
    assert figures["frames"]["answered_of_wanted"] == 0.4


async def test_dropped_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadtest, "GRACE", 0.05)
    async with serving(drop=frozenset({1, 2})) as server:
        (done,) = await drive(server, format="pcm")
    assert done.timeline.missing() == 2
    assert done.outcome == "completed"


@pytest.mark.parametrize(
    ("close", "outcome"),
    [
        ((1008, "slow_consumer"), "slow_consumer"),
        ((1000, "expired"), "expired"),
        ((1000, ""), "close_1000"),
        (None, "lost"),
    ],
)
async def test_calls_that_the_server_ends(close: Any, outcome: str) -> None:
    async with serving(end=2, close=close) as server:
        (done,) = await drive(server, format="pcm")
    assert done.outcome == outcome
    assert len(done.timeline.sent) < 4


async def test_calls_that_never_get_a_slot() -> None:
    async with serving(handshake=None) as server:
        (waited,) = await drive(server, format="pcm", wait=0.05)
    assert (waited.outcome, waited.waited, waited.timeline.sent) == ("timeout", None, [])


async def test_a_server_that_speaks_first() -> None:
    early = (b"\x01" + bytes(3840),) * 8
    async with serving(after=early) as server:
        (done,) = await drive(server, format="pcm")
    assert done.outcome == "completed"
    assert len(done.timeline.sent) == 4

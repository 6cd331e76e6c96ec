"""Statistics on timelines made by hand."""

from __future__ import annotations

import pytest

from kaiwa.client.schedule import Schedule
from kaiwa.client.timeline import Playback, Timeline, playback, quantile

SENT = [i * 0.08 for i in range(10)]


def test_frames_are_complete_when_their_last_sample_came() -> None:
    line = Timeline(sent=[0.0, 0.08, 0.16])
    assert line.receive(960, 0.01) == 0
    assert line.receive(960, 0.03) == 1
    assert line.receive(3840, 0.20) == 2
    assert line.answered == [0.03, 0.20, 0.20]
    assert line.latencies() == pytest.approx([0.03, 0.12, 0.04])
    assert line.samples == 3 * 1920


def test_silence_that_is_left_out_between_turns_is_not_missing() -> None:
    line = Timeline(sent=list(SENT), continuous=False)
    assert line.skip_to(2, silent=True) == 2
    line.receive(1920, 0.20)
    # Within a turn it is.
    assert line.skip_to(4, silent=False) == 1
    line.receive(2 * 1920, 0.41)
    assert line.answered == [None, None, 0.20, None, 0.41, 0.41]
    assert (line.came, line.missing(), line.missing_of(10)) == (3, 1, 1)
    assert line.latencies() == pytest.approx([0.04, 0.09, 0.01])
    assert line.receive(1000, 0.5) == 0
    assert line.receive(920, 0.5) == 1


@pytest.mark.parametrize("frame", [-5, 0, 3, 10**12])
def test_a_number_that_no_frame_can_have_leaves_nothing_out(frame: int) -> None:
    line = Timeline(sent=list(SENT), answered=[0.01, 0.09, 0.17])
    assert line.skip_to(frame, silent=False) == 0
    assert line.missing() == 7


def test_a_player_starts_anew_after_a_pause_between_turns() -> None:
    turn = [0.0, 0.08, 0.16]
    later = [at + 5 for at in turn]
    assert playback([*turn, None, *later]) == Playback(0, 0.0)
    assert playback([*turn, *later]).underruns == 1


def test_missing_frames() -> None:
    line = Timeline(sent=list(SENT), answered=[*SENT[:7]])
    assert line.missing() == 3
    assert line.missing(held_back=2) == 1
    assert line.missing(held_back=5) == 0
    assert len(line.latencies()) == 7


def test_quantiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert quantile(values, 0.5) == 3.0
    assert quantile(values, 0.99) == 5.0
    assert quantile(values, 0.0) == 1.0
    assert quantile([7.0], 0.01) == 7.0
    assert quantile([], 0.5) is None
    assert quantile([float(i) for i in range(1, 101)], 0.99) == 99.0


def test_a_steady_answer_never_runs_empty() -> None:
    assert playback([0.5 + at for at in SENT]) == Playback(0, 0.0)


def test_the_buffer_covers_100_milliseconds() -> None:
    late = [*SENT[:5], *(at + 0.1 for at in SENT[5:])]
    assert playback(late).underruns == 0
    late = [*SENT[:5], *(at + 0.15 for at in SENT[5:])]
    fared = playback(late)
    assert fared.underruns == 1
    assert fared.stalled == pytest.approx(0.05)


def test_each_new_delay_counts_once() -> None:
    at = [0.0, 0.08, 0.46, 0.54, 0.92, 1.0]
    fared = playback(at, buffer=0.1)
    assert fared.underruns == 2
    assert fared.stalled == pytest.approx(0.2 + 0.3)
    assert playback([]) == Playback(0, 0.0)


def test_a_schedule_is_absolute() -> None:
    plan = Schedule(10.0)
    for _ in range(3):
        plan.go(plan.due + 0.02)
    assert plan.due == pytest.approx(10.24)
    assert plan.lateness == pytest.approx([0.02] * 3)
    assert plan.skipped == 0


def test_what_is_too_late_is_skipped() -> None:
    plan = Schedule(0.0)
    plan.go(0.0)
    plan.go(0.08 + 0.25)
    assert plan.skipped == 3
    assert plan.due == pytest.approx(0.4)
    plan.go(0.39)
    assert plan.lateness == pytest.approx([0.0, 0.25, 0.0])

"""Progress of long work: a bar that follows the clock, and lines in the server's log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kaiwa.cli import serve
from kaiwa.terminal import progress


@pytest.mark.parametrize("quiet", [False, True])
def test_a_bar_follows_the_clock_where_somebody_looks(
    quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = threading.Event()
    steps: list[int] = []

    @contextmanager
    def bar(title: str, total: int | None, *, quiet: bool) -> Iterator[progress.Advance]:
        assert (title, total) == ("calling", 60_000)

        def advance(count: int) -> None:
            steps.append(count)
            if sum(steps) > 0:
                moved.set()

        yield advance

    monkeypatch.setattr(progress, "bar", bar)
    monkeypatch.setattr(progress, "REFRESH", 0.002)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = threading.active_count()
    with progress.elapsing("calling", 60, quiet=quiet):
        assert quiet or moved.wait(30)
    assert threading.active_count() == before
    assert quiet == (steps == [])


def test_the_bar_ends_with_its_block_when_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = set(threading.enumerate())
    with pytest.raises(KeyError), progress.elapsing("calling", 60, quiet=False):
        raise KeyError
    # The thread that draws is told to stop, and does so when it next looks.
    deadline = time.monotonic() + 10
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("total", "shown", "not_shown"), [(None, "0:00:00", "%"), (4, "50 %", "0:00:00")]
)
def test_work_of_unknown_length_shows_its_time_instead_of_a_share(
    total: int | None,
    shown: str,
    not_shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bar("drawing", total, quiet=False) as advance:
        advance(2)
    seen = capsys.readouterr().err
    assert "drawing" in seen
    assert shown in seen
    assert not_shown not in seen


def test_a_server_says_now_and_then_how_far_it_has_loaded(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    update = serve.logged_progress(lambda: now)
    with caplog.at_level(logging.INFO, logger="kaiwa.server"):
        for second, done in ((1, 10), (4.9, 20), (5, 31), (6, 40), (10, 90), (11, 100)):
            now = 100.0 + second
            update(done, 100)
    assert caplog.messages == ["loading the model: 31 %", "loading the model: 90 %"]


def test_work_of_no_size(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kaiwa.server"):
        serve.logged_progress(iter((0.0, 9.0)).__next__)(0, 0)
    assert caplog.messages == ["loading the model: 0 %"]

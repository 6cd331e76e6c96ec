"""`kaiwa bench mimi`: its figures fit together, and what it leaves out it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaiwa.bench.measure import Ratio, StreamTimes

QUICK = ("--slots", "2", "--frames", 4, "--rounds", 2, "--file-seconds", 1)


def test_figures_fit_together(run: Callable[..., Any], small: Path) -> None:
    outcome = run("bench", "mimi", "--model", small, *QUICK, "--peers", "none", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert [row["slots"] for row in summary["streams"]] == [1, 2]
    for row in summary["streams"]:
        assert 0 < row["encode_ms"]["median"] <= row["encode_ms"]["p90"]
        assert 0 < row["decode_ms"]["median"] <= row["decode_ms"]["p90"]
        assert row["real_time_factor"] == pytest.approx(row["per_stream_ms"] / 80)
        streams = row["streams_per_core"] * summary["threads"]
        assert streams == pytest.approx(1 / row["real_time_factor"])
        assert row["state_bytes_per_stream"] > 1000
        assert row["one_by_one"] == {}
    (file,) = summary["files"]
    assert file["real_time_factor"] > 0
    assert summary["missing_peers"] == {}


def test_table(run: Callable[..., Any], small: Path) -> None:
    outcome = run("bench", "mimi", "--model", small, *QUICK, "--peers", "none")
    assert outcome.code == 0, outcome.err
    assert "ratios count" in outcome.out
    assert "…" not in outcome.out
    assert "kaiwa" in outcome.out


def test_a_peer_that_cannot_take_part_is_named(run: Callable[..., Any], small: Path) -> None:
    weights = next(small.glob("*.safetensors"))
    outcome = run("bench", "mimi", "--model", weights, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    missing = json.loads(outcome.out)["missing_peers"]
    # The wheel knows the released sizes only; where it is absent, that is said instead.
    assert "rustymimi" in missing
    assert missing["rustymimi"].startswith(("cannot load the model", "not installed"))


def test_too_many_frames(run: Callable[..., Any], small: Path) -> None:
    outcome = run("bench", "mimi", "--model", small, "--frames", 123)
    assert outcome.code == 2
    assert "at most 122" in outcome.error


def test_ratios_are_taken_round_by_round() -> None:
    ratio = Ratio.of([10.0, 40.0, 30.0], [1.0, 2.0, 5.0])
    assert (ratio.median, ratio.low, ratio.high) == (10.0, 6.0, 20.0)
    times = StreamTimes("x", 4, encode=[[4.0, 8.0, 100.0]], decode=[[2.0, 2.0, 2.0]])
    assert times.per_stream("encode") == [2.0]
    assert times.per_stream("both") == [2.5]

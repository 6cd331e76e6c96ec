"""`kaiwa loadtest` against a server that does as it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.client import standin
from tests.client.server import serving_in_a_thread


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    standin.install(monkeypatch)
    monkeypatch.delenv("KAIWA_KEY", raising=False)


def test_a_table(run: Callable[..., Any], wav: Path) -> None:
    with serving_in_a_thread() as server:
        outcome = run("loadtest", server.url, "--calls", 2, "--seconds", 0.3, "--in", wav)
    assert outcome.code == 0, outcome.err
    for part in ("without fault           2", "frame latency ms", "send lateness ms", "driver"):
        assert part in outcome.out


def test_the_shorter_name_is_the_same_command(run: Callable[..., Any]) -> None:
    with serving_in_a_thread() as server:
        outcome = run(
            *("load", server.url, "--calls", 1, "--seconds", 0.16, "--format", "pcm", "--json")
        )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["endings"] == {"completed": 1}


def test_json_with_rejected_calls(run: Callable[..., Any]) -> None:
    with serving_in_a_thread(slots=1) as server:
        outcome = run(
            *("loadtest", server.url, "--calls", 3, "--seconds", 0.16, "--format", "pcm"),
            *("--json", "--quiet", "--key", "kw_1"),
        )
        assert server.headers[0]["Authorization"] == "Bearer kw_1"
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures["calls"]["rejected"] == 2
    assert (figures["seconds"], figures["format"]) == (0.16, "pcm")
    assert figures["endings"] == {"full": 2, "completed": 1}
    assert len(figures["driver_cores"]) == 1


def test_two_processes(run: Callable[..., Any]) -> None:
    with serving_in_a_thread() as server:
        outcome = run(
            *("loadtest", server.url, "--calls", 3, "--seconds", 0.16, "--format", "pcm"),
            *("--json", "--processes", 2, "--ramp", 0.1),
        )
        assert len(server.received) == 3
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures["endings"] == {"completed": 3}
    assert figures["frames"]["answered"] == 6
    assert len(figures["driver_cores"]) == 2


def test_nobody_there(run: Callable[..., Any]) -> None:
    outcome = run(
        "loadtest", "127.0.0.1:1", "--calls", 2, "--seconds", 0.1, "--format", "pcm", "--quiet"
    )
    assert outcome.code == 1
    assert "unreachable" in outcome.out
    assert "no call was answered" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ftp://x",), "no address"),
        (("h:1", "--calls", 0), "0 is not 1 or more"),
        (("h:1", "--seconds", -1), "not a positive number"),
        (("h:1", "--in", "missing.wav"), "does not exist"),
    ],
)
def test_wrong_arguments(run: Callable[..., Any], arguments: Any, says: str) -> None:
    outcome = run("loadtest", *arguments, "--quiet")
    assert outcome.code == 2
    assert says in outcome.error

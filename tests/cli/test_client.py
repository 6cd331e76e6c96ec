"""`kaiwa client` against a server that does as it is told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.client import standin
from tests.client.server import serving_in_a_thread

from kaiwa.cli import chat_options


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    standin.install(monkeypatch)
    monkeypatch.delenv("KAIWA_KEY", raising=False)


def read(path: Path) -> Any:
    pcm, rate = soundfile.read(path, dtype="float32")
    assert rate == 24_000
    return pcm


def test_a_call_with_a_file(run: Callable[..., Any], wav: Path, tmp_path: Path) -> None:
    out, text, times = (tmp_path / name for name in ("out.wav", "out.jsonl", "times.jsonl"))
    with serving_in_a_thread(say={3: " Hello", 4: " é"}, queue=(2, 1)) as server:
        outcome = run(
            *("client", "--in", wav, "--out", out, "--text", text, "--timing", times, server.url),
            *("--format", "pcm", "--pace", "none", "--key", "kw_1", "--seed", 5, "--temp", 0),
            *("--temp-text", 0.5, "--top-k", 9, "--top-k-text", 8),
        )
        assert outcome.code == 0, outcome.err
        query = {name: values[0] for name, values in server.queries[0].items()}
        assert server.headers[0]["Authorization"] == "Bearer kw_1"
    assert query == {
        "seed": "5",
        "audio_temperature": "0.0",
        "text_temperature": "0.5",
        "audio_topk": "9",
        "text_topk": "8",
        "pace": "none",
        "format": "pcm",
        "client": "kaiwa",
    }
    np.testing.assert_allclose(read(out), read(wav), atol=1e-4)
    assert outcome.out == "Hello é\n"
    assert [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()] == [
        {"t": 0.24, "text": " Hello"},
        {"t": 0.32, "text": " é"},
    ]
    frames = [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines()]
    assert [frame["t"] for frame in frames] == pytest.approx([0.08 * n for n in range(19)])
    assert all(frame["latency_ms"] > 0 for frame in frames)
    first, second, summary = outcome.err.splitlines()
    assert (first, second) == ("waiting for a slot, position 2", "waiting for a slot, position 1")
    for part in ("1.50 s in", "handshake after", "0 of 19 frames missing", "close 1000"):
        assert part in summary


def test_in_real_time_with_opus(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.flac", tmp_path / "out.flac"
    soundfile.write(source, np.random.default_rng(0).uniform(-0.3, 0.3, 22_050), 44_100)
    monkeypatch.setenv("KAIWA_KEY", "kw_2")
    with serving_in_a_thread() as server:
        outcome = run("client", "--in", source, "--out", out, server.url)
        assert server.headers[0]["Authorization"] == "Bearer kw_2"
        assert "seed" not in server.queries[0]
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    assert len(read(out)) == 12_000
    assert "frame latency p50" in outcome.err


def call(run: Callable[..., Any], wav: Path, out: Path, **script: Any) -> Any:
    """A call in PCM, as fast as the server takes it."""
    with serving_in_a_thread(**script) as server:
        return run(
            *("client", "--in", wav, "--out", out, server.url, "--format", "pcm"),
            *("--pace", "none"),
        )


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({"refusal": (503, "full", "All slots are taken.", {"Retry-After": "3"})}, "again in 3 s"),
        ({"refusal": (401, "unknown_key", "The key is unknown.", {})}, "KAIWA_KEY"),
        ({"end": 2, "close": (1011, "error"), "error": "The step failed."}, "The step failed"),
        ({"end": 0, "close": (1000, "")}, "answered no frame of 19"),
    ],
)
def test_calls_that_fail(
    script: dict[str, Any], says: str, run: Callable[..., Any], wav: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.wav"
    outcome = call(run, wav, out, **script)
    assert outcome.code == 1
    assert says in outcome.error
    assert not list(tmp_path.glob("*out*"))


def test_a_call_that_the_server_ends_early(
    run: Callable[..., Any], wav: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.wav"
    outcome = call(run, wav, out, end=10, close=(1000, "expired"))
    assert outcome.code == 0
    assert "9 of 19 frames were not answered (close 1000 expired)" in outcome.err
    assert len(read(out)) == len(read(wav))


def test_nobody_there(run: Callable[..., Any], wav: Path, tmp_path: Path) -> None:
    outcome = run("client", "--in", wav, "--out", tmp_path / "o.wav", "127.0.0.1:1")
    assert outcome.code == 1
    assert "kaiwa serve" in outcome.error


def test_wrong_arguments(run: Callable[..., Any], wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.wav"
    for arguments, says in (
        (("--in", wav, "--out", out, "ftp://x"), "no address"),
        (("--in", tmp_path / "no.wav", "--out", out, "h:1"), "does not exist"),
        (("--in", wav, "--out", wav, "h:1"), "also the input"),
        (("--in", wav, "--out", out, "--text", out, "h:1"), "also the audio file"),
        (("--in", wav, "--out", out, "--timing", wav, "h:1"), "another file for the times"),
        (("--in", wav, "--out", out, "h:1", "--temp", "-1"), "at least 0"),
        (("--in", wav, "h:1"), "--out"),
    ):
        outcome = run("client", *arguments)
        assert outcome.code == 2
        assert says in outcome.error


def test_a_key_over_an_open_line(capfd: pytest.CaptureFixture[str]) -> None:
    for url, warned in (("192.0.2.1:1", True), ("https://h", False), ("127.0.0.1", False)):
        args = argparse.Namespace(url=url, key="k", format="opus")
        assert chat_options.connection(args) == {"url": url, "key": "k", "format": "opus"}
        assert ("unencrypted" in capfd.readouterr().err) == warned

"""The demo model: its files, and what it makes of voices that it has not met.

The shares are what the shipped weights reach, a little rounded down; docs/demo-model.md has them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.demo.conftest import Scenes
from training.listener import Listener

import kaiwa
from kaiwa import demo
from kaiwa.cli import main
from training import calls

MEGABYTE = 1_000_000


def test_it_is_small_and_in_the_released_formats(capsys: pytest.CaptureFixture[str]) -> None:
    folder = demo.folder()
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 13 * MEGABYTE
    assert main(["info", str(folder / "model.q8.gguf"), "--json"]) == 0
    rows: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert rows["kind"] == "language model"
    assert "Candle GGUF" in rows["layout"]
    assert 3e6 < rows["parameters"] < 10e6
    mimi = kaiwa.Mimi.from_pretrained("demo")
    assert (mimi.sample_rate, mimi.frame_rate, mimi.num_codebooks) == (24_000, 12.5, 8)
    assert kaiwa.Moshi.from_pretrained("demo").dep_q == 8
    # A folder of that name is another thing.
    with pytest.raises(kaiwa.errors.CheckpointNotFoundError):
        kaiwa.Moshi.from_pretrained("./demo")


@pytest.fixture(scope="module")
def figures(scenes: Scenes, listener: Listener) -> dict[str, Any]:
    """Scores of each kind of call."""
    found = {}
    for kind, count in (("digits", 32), ("sums", 32), ("interrupted", 16)):
        made = scenes(kind, count)
        found[kind] = calls.score(made, calls.converse("demo", made, 1), listener)
    print(json.dumps(found, indent=1))
    return found


@pytest.mark.parametrize(
    ("kind", "text", "audio"),
    [("digits", 0.95, 0.92), ("sums", 0.85, 0.85), ("interrupted", 0.87, 0.84)],
)
def test_it_answers_strangers(
    figures: dict[str, Any], kind: str, text: float, audio: float
) -> None:
    found = figures[kind]
    assert found["text right"] >= text, found
    assert found["audio right"] >= audio, found
    assert found["no answer"] == 0, found


@pytest.mark.parametrize("kind", ["digits", "sums"])
def test_it_waits_for_the_end_and_not_for_long(figures: dict[str, Any], kind: str) -> None:
    found = figures[kind]
    assert found["talked while listening"] <= 0.1, found
    # A pause may last 0.55 s; what is longer is the end.
    first, middle, last = found["onset ms (10, 50, 90 %)"]
    assert first > 550
    assert middle < 950
    assert last < 1150


def test_it_greets_and_is_silent_when_nobody_speaks() -> None:
    duplex = kaiwa.Duplex.from_pretrained("demo", seed=0)
    outs = [duplex.step(np.zeros((1, 1920), np.float32)) for _ in range(125)]
    assert "".join(out.text[0] for out in outs).strip() == "hello"
    late = np.concatenate([out.audio[0] for out in outs[40:]])
    assert np.abs(late).max() < 0.05


def test_it_says_the_same_in_another_format(
    scenes: Scenes, listener: Listener, tmp_path: Path
) -> None:
    made = scenes("digits", 24)
    assert main(["convert", "demo", str(tmp_path / "demo"), "--to", "pytorch-bf16", "--quiet"]) == 0
    for source in ("demo", str(tmp_path / "demo" / "model.safetensors")):
        answers = calls.converse(source, made, 1, temp=0, temp_text=0)
        assert calls.score(made, answers, listener)["text right"] >= 0.85, source

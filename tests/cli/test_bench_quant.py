"""`kaiwa bench quant`: its metrics on logits whose difference is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kaiwa.bench import lm_model, quant
from kaiwa.bench.quant import Difference

TEXT, CARD, DEPTH = 11, 7, 3


class Drawn:
    """A stream whose logits are a fixed function of everything it was told, plus an offset at
    one entry. What it was told includes its own tokens, so runs that are not led part ways."""

    state_bytes = 0
    stage_seconds: Mapping[str, float] = {}

    def __init__(self, entry: int, offset: float, audio_offset: float) -> None:
        self.entry, self.offset, self.audio_offset = entry, offset, audio_offset
        self.told: list[int] = []
        self.text_logits = np.zeros((1, TEXT), np.float32)
        self.audio_logits = np.zeros((1, DEPTH, CARD), np.float32)

    def clear_stage_seconds(self) -> None:
        """Nothing is timed."""

    def prefill_silence(self, steps: int) -> None:
        raise AssertionError(steps)

    def step(
        self,
        user_codes: NDArray[Any],
        *,
        force_text: NDArray[Any] | None = None,
        force_audio: NDArray[Any] | None = None,
    ) -> Any:
        self.told += user_codes.ravel().tolist()
        rng = np.random.default_rng(self.told)
        self.text_logits = rng.normal(size=(1, TEXT)).astype(np.float32)
        self.audio_logits = rng.normal(size=(1, DEPTH, CARD)).astype(np.float32)
        self.text_logits[:, self.entry] += self.offset
        self.audio_logits[:, 1, self.entry] += self.audio_offset
        text = self.text_logits.argmax(-1) if force_text is None else force_text
        audio = self.audio_logits.argmax(-1) if force_audio is None else force_audio
        assert text.shape == (1,)
        assert audio.shape == (1, DEPTH)
        self.told += [*text.tolist(), *audio.ravel().tolist()]
        return SimpleNamespace(step_text_tokens=text, step_audio_tokens=audio)


class Model:
    config: Mapping[str, Any] = {}
    num_codebooks_in, card, weight_bytes = 2, CARD, 5
    step_bytes: tuple[tuple[str, int], ...] = ()

    def __init__(self, offset: float, audio_offset: float = 0.0) -> None:
        self.offset, self.audio_offset = offset, audio_offset

    def stream(self, slots: int = 1, **_: Any) -> Drawn:
        assert slots == 1
        return Drawn(4, self.offset, self.audio_offset)


def test_a_known_perturbation_is_found() -> None:
    offsets = {"bf16": 0.0, "int8": 0.5, "int4": 100.0, "float32": 0.0}
    rows = quant.compare(
        lambda kind: Model(offsets[kind]), ("float32", "int8", "int4"), 40, lambda _: None
    )
    exact, near, far = rows
    assert (
        exact["text"]
        == exact["audio"]
        == {
            "largest": 0,
            "rms": 0,
            "relative": 0,
            "top1": 1,
        }
    )
    # Led along the same tokens, the logits differ where they were changed and nowhere else.
    assert near["audio"] == exact["audio"]
    assert near["text"]["largest"] == pytest.approx(0.5, rel=1e-5)
    assert near["text"]["rms"] == pytest.approx(0.5 / TEXT**0.5, rel=1e-5)
    assert 0.5 < near["text"]["top1"] < 1
    # An offset of 100 makes entry 4 the choice at every step.
    reference = quant.trace(Model(0.0), 40)
    assert far["text"]["top1"] == np.mean(reference.text_tokens == 4)
    size = float(np.sqrt(np.mean(reference.text.astype(np.float64) ** 2)))
    assert far["text"]["relative"] == pytest.approx(100 / TEXT**0.5 / size, rel=1e-5)


def test_audio_is_led_too_and_its_difference_found() -> None:
    reference = quant.trace(Model(0.0), 40)
    led = quant.trace(Model(0.0, -3.0), 40, reference)
    assert np.array_equal(led.text, reference.text)
    assert np.array_equal(led.audio_tokens, reference.audio_tokens)
    found = Difference.of(led.audio, reference.audio)
    assert found.largest == pytest.approx(3.0, rel=1e-5)
    assert found.rms == pytest.approx(3.0 / (DEPTH * CARD) ** 0.5, rel=1e-5)
    # Codebook 1 no longer chooses entry 4; the others choose as before.
    lost = np.mean(reference.audio_tokens[:, 1] == 4) / DEPTH
    assert 1 - lost - 0.02 <= found.top1 <= 1 - lost + 0.02


def test_without_being_led_runs_part_ways() -> None:
    reference = quant.trace(Model(0.0), 40)
    alone = quant.trace(Model(0.5), 40)
    led = quant.trace(Model(0.5), 40, reference)
    assert np.abs(alone.audio - reference.audio).max() > 1
    assert np.array_equal(led.audio, reference.audio)
    assert np.array_equal(led.text_tokens, reference.text_tokens)


def test_the_command_compares_every_level(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_model, "load", lambda _, kind: Model(0.25 * (kind == "int4")))
    outcome = run("bench", "quant", tmp_path, "--steps", 5, "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert [row["level"] for row in summary["levels"]] == ["float32", "int8", "int4"]
    assert [row["text"]["largest"] for row in summary["levels"]] == pytest.approx([0, 0, 0.25])
    table = run("bench", "quant", tmp_path, "--steps", 5, "--quiet")
    assert "0.25" in table.out
    assert "…" not in table.out


def test_levels_that_do_not_fit_are_named(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_model, "load", lambda *_: Model(0.0))
    (tmp_path / "model.safetensors").write_bytes(bytes(2000))
    monkeypatch.setattr(lm_model, "available_memory", lambda: 3000)
    summary = json.loads(run("bench", "quant", tmp_path, "--steps", 2, "--json").out)
    assert list(summary["left_out"]) == ["float32"]
    assert [row["level"] for row in summary["levels"]] == ["int8", "int4"]
    monkeypatch.setattr(lm_model, "available_memory", lambda: 1500)
    outcome = run("bench", "quant", tmp_path, "--steps", 2)
    assert outcome.code == 2
    assert "use a smaller model" in outcome.error


def test_logits_of_zero_have_no_relative_size() -> None:
    zero = np.zeros((2, 3), np.float32)
    assert Difference.of(zero, zero).relative == 0
    assert Difference.of(zero + 1, zero).relative == float("inf")

"""Configurations that no recorded outputs exist for, against a second reading of the specification
in plain numpy, on both backends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.device_list import DEVICES, tolerance
from tests.native.plain_moshi import PlainMoshi, random_weights, shapes

import kaiwa
from kaiwa.cli.main import main

DATA = Path(__file__).parents[1] / "data"

HIBIKI_DELAYS = [0, 0, *[2] * 7, 0, *[2] * 7]
VALUES = ["very_bad", "bad", "neutral", "good", "very_good"]
LUT = {"n_bins": 5, "dim": 6, "tokenizer": "noop", "possible_values": VALUES}
OTHER_LUT = {"n_bins": 7, "dim": 4, "tokenizer": "noop", "possible_values": ["a", "b"]}
CONDITIONERS = {
    "description": {"type": "lut", "lut": LUT},
    "mood": {"type": "lut", "lut": OTHER_LUT},
}

#: What differs from the small reference model; `None` takes an entry away.
CASES: dict[str, dict[str, Any]] = {
    "grouped heads": {"kv_repeat": 2},
    "grouped heads of one transformer": {"kv_repeat": 4, "depformer_kv_repeat": 1},
    "halves of a head rotate": {"positional_embedding": "rope_concat", "max_period": 20000.0},
    "inherited widths": {"hidden_scale": 4, "depformer_dim_feedforward": None},
    "layer norms": {"norm": "layer_norm", "depformer_norm": "layer_norm_f32"},
    "loose norms": {"norm": "rms_norm", "depformer_norm": "rms_norm_f32"},
    "layer scale of one": {"layer_scale": 0.01},
    "no gating": {"gating": "none"},
    "schedule and widths of sets": {
        "depformer_weights_per_step_schedule": [0, 1, 1, 2, 2, 2, 0, 2],
        "depformer_dim_feedforward": [96, 192, 64],
    },
    "sixteen sub-steps": {"dep_q": 16, "depformer_low_rank_embeddings": 8},
    "two conditions": {
        "conditioners": CONDITIONERS,
        "fuser": {"sum": ["description", "mood"], "cross": [], "prepend": []},
    },
    "translation": {
        "model_type": "hibiki",
        "conditioners": {"description": CONDITIONERS["description"]},
        "fuser": {"sum": ["description"]},
        "delays": HIBIKI_DELAYS,
    },
    "later translation": {
        "model_type": "hibiki",
        "kv_repeat": 2,
        "positional_embedding": "rope_concat",
        "hidden_scale": 6,
        "depformer_dim_feedforward": None,
        "depformer_norm": "layer_norm",
        "delays": HIBIKI_DELAYS,
    },
    "thirty-two streams": {
        "n_q": 32,
        "dep_q": 16,
        "delays": [0, *([0, *[2] * 15] * 2)],
    },
    "any delays": {"delays": [2, 0, 3, 1, 1, 1, 1, 1, 5, 0, 1, 4, 1, 1, 1, 1, 0]},
    "no depth transformer": {"dep_q": 0, "delays": [0] * 17},
    "a window of one": {"context": 1, "card": 33, "text_card": 17, "text_card_out": 15},
}
CHOSEN = {"description": "bad", "mood": None}


def config_of(changes: dict[str, Any]) -> dict[str, Any]:
    """The small reference model's configuration with changes."""
    text = (DATA / "moshi_small" / "config.json").read_text()
    config = {**json.loads(text), "card": 30, "text_card": 20, **changes}
    return {key: value for key, value in config.items() if key not in changes or value is not None}


@pytest.mark.parametrize("name", ["moshi_small", "hibiki_small"])
def test_the_second_reading_agrees_with_the_reference(name: str) -> None:
    config = json.loads((DATA / name / "config.json").read_text())
    weights = load_file(DATA / name / "model.safetensors")
    want = load_file(DATA / name / "expected.safetensors")
    assert shapes(config) == {name: tensor.shape for name, tensor in weights.items()}
    plain, frames = PlainMoshi(config, weights), []
    for step, user in enumerate(want["user_codes"].T.tolist()):
        tokens, text, audio, frame = plain.step(user)
        assert tokens == [want["step_text_tokens"][step], *want["step_audio_tokens"][step]]
        np.testing.assert_allclose(text, want["text_logits"][step], atol=1e-4)
        np.testing.assert_allclose(audio, want["audio_logits"][step], atol=1e-4)
        frames += [] if frame is None else [frame]
    assert (want["out_tokens"] == np.array(frames).T).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_other_configurations(name: str, device: str, tmp_path: Path) -> None:
    config = config_of(CASES[name])
    weights = random_weights(config, seed=7)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    moshi = kaiwa.Moshi.from_pretrained(tmp_path, device=device, dtype="float32")
    chosen = {key: CHOSEN[key] for key in config.get("conditioners", {})}
    plain = PlainMoshi(config, weights, chosen)
    assert moshi.dep_q == plain.own
    stream = moshi.stream(seed=0, temp=0, temp_text=0, conditions=chosen)
    rng = np.random.default_rng(3)
    ready, close = 0, tolerance(device).logits
    for _ in range(20):
        user = rng.integers(-1, config["card"] + 1, moshi.num_codebooks_in)
        out = stream.step(user[None])
        tokens, text, audio, frame = plain.step(user.tolist())
        assert [out.step_text_tokens[0], *out.step_audio_tokens[0]] == tokens
        np.testing.assert_allclose(stream.text_logits[0], text, atol=close)
        np.testing.assert_allclose(stream.audio_logits[0], audio, atol=close)
        assert out.ready[0] == (frame is not None)
        if frame is not None:
            ready += 1
            assert [out.text[0], *out.audio[0]] == frame
    assert ready == 20 - max(config["delays"])


@pytest.mark.parametrize("form", ["pytorch-int8", "candle-bf16", "gguf-q8", "mlx-bf16", "mlx-q4"])
def test_sixteen_sub_steps_are_counted_in_the_file(form: str, tmp_path: Path) -> None:
    """The configuration of such a repository may say eight (docs/spec/checkpoints.md 8)."""
    config = config_of({"dep_q": 16})
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    save_file(random_weights(config, seed=8), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config))
    assert main(["convert", str(source), str(out), "--to", form, "--quiet"]) == 0
    said = []
    for steps in (16, 8):
        written = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**written, "dep_q": steps}))
        moshi = kaiwa.Moshi.from_pretrained(out, device="cpu")
        assert (moshi.dep_q, moshi.num_codebooks_in, moshi.config.dep_q) == (8, 8, 16)
        stream = moshi.stream(temp=0, temp_text=0)
        said.append([stream.step(np.full((1, 8), n)).step_audio_tokens.tolist() for n in range(5)])
    assert said[0] == said[1]

"""Synthetic checkpoints: the same model in every layout, diverse codes, sound that is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaiwa
from kaiwa import _safetensors
from kaiwa.synth import LAYOUTS, forward, voice, write_mimi
from kaiwa.synth.checkpoint import make_mimi
from kaiwa.synth.shapes import FULL, SMALL

FRAME = 1920


def load(path: Path, **options: Any) -> kaiwa.Mimi:
    """A codec with all codebooks of the small size unless told otherwise."""
    return kaiwa.Mimi.from_pretrained(str(path), **{"num_codebooks": 12, **options})


def entropy(codes: Any) -> float:
    """Empirical entropy of one row of codes, bits."""
    _, counts = np.unique(codes, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def test_three_layouts_of_a_seed_are_one_model(tmp_path: Path) -> None:
    pcm = voice(4.0, seed=3)
    results = []
    for layout in LAYOUTS:
        write_mimi(tmp_path / layout, size="small", layout=layout, seed=7)
        mimi = load(tmp_path / layout)
        codes = mimi.encode(pcm)
        results.append((codes, mimi.decode(codes)))
    for codes, audio in results[1:]:
        np.testing.assert_array_equal(codes, results[0][0])
        np.testing.assert_array_equal(audio, results[0][1])


def test_the_rotary_permutation_matters(tmp_path: Path) -> None:
    """Guards the test above: in `hf` order without the permutation, the codes are others."""
    write_mimi(tmp_path / "k", size="small", seed=7)
    write_mimi(tmp_path / "h", size="small", layout="hf", seed=7)
    path = next((tmp_path / "h").glob("*.safetensors"))
    entries, _, start = _safetensors.read_header(path)
    data = bytearray(path.read_bytes())
    queries = [name for name in entries if name.endswith("q_proj.weight")]
    assert queries
    for name in queries:
        entry = entries[name]
        rows = np.frombuffer(data, "<f4", 32 * 32, start + entry.begin).reshape(4, 2, 4, 32)
        rows[:] = rows.transpose(0, 2, 1, 3).reshape(4, 2, 4, 32).copy()
    path.write_bytes(data)
    pcm = voice(4.0, seed=3)
    assert (load(tmp_path / "k").encode(pcm) != load(tmp_path / "h").encode(pcm)).any()


def test_latents_equal_the_plain_forward_pass(tmp_path: Path) -> None:
    write_mimi(tmp_path / "m", size="small", seed=5)
    tensors, _ = make_mimi(5, SMALL)
    pcm = voice(40 * FRAME / 24_000, seed=1)
    wanted = forward.encode_latent(tensors, SMALL, pcm)
    got = load(tmp_path / "m").encode_to_latent(pcm)
    assert got.shape[-2:] == (32, 40)
    assert np.abs(got.reshape(32, 40) - wanted).max() < 2e-5 * wanted.std() + 2e-5


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_files_are_nearly_the_same(dtype: str, tmp_path: Path) -> None:
    write_mimi(tmp_path / "f32", size="small")
    write_mimi(tmp_path / dtype, size="small", dtype=dtype)
    pcm = voice(4.0, seed=2)
    exact = load(tmp_path / "f32").encode_to_latent(pcm)
    rounded = load(tmp_path / dtype).encode_to_latent(pcm)
    error = np.sqrt(np.mean((exact - rounded) ** 2)) / exact.std()
    assert 1e-6 < error < 0.05
    files = [next((tmp_path / d).glob("*.safetensors")) for d in ("f32", dtype)]
    sizes = [f.stat().st_size for f in files]
    assert 0.45 < sizes[1] / sizes[0] < 0.55


def test_small_codes_are_diverse_and_audio_is_audible(tmp_path: Path) -> None:
    report = write_mimi(tmp_path / "m", size="small")
    mimi = load(tmp_path / "m")
    codes = mimi.encode(voice(24.0, seed=11))
    assert codes.shape == (12, 300)
    assert min(entropy(row) for row in codes) > 4.0
    assert min(report.entropy_bits) > 4.0
    audio = mimi.decode(codes)
    assert np.isfinite(audio).all()
    assert 0.01 < audio.std() < 0.5
    assert np.abs(audio).max() < 4


def test_later_codebooks_come_closer(tmp_path: Path) -> None:
    """The residual shrinks: nearness to all-codebook audio grows with the number used."""
    write_mimi(tmp_path / "m", size="small")
    mimi = load(tmp_path / "m")
    codes = mimi.encode(voice(4.0, seed=4))
    full = mimi.decode(codes)
    errors = [float(np.std(mimi.decode(codes[:count]) - full)) for count in (1, 3, 6, 9)]
    assert errors == sorted(errors, reverse=True)


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    files = [
        write_mimi(tmp_path / name, size="small", seed=seed).weights.read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert files[0] == files[1] != files[2]


def test_full_size_shapes(tmp_path: Path) -> None:
    report = write_mimi(tmp_path / "full.safetensors")
    entries, _, _ = _safetensors.read_header(report.weights)
    assert len(entries) == 318
    assert report.parameters == 96_151_393
    assert report.config is None
    assert entries["encoder.model.12.conv.conv.weight"].shape == (1024, 512, 16)
    assert entries["decoder.model.2.convtr.convtr.weight"].shape == (1024, 512, 16)
    assert entries["upsample.convtr.convtr.convtr.weight"].shape == (512, 1, 4)
    assert min(report.entropy_bits) > 5.5
    mimi = load(report.weights, num_codebooks=FULL.n_q)
    pcm = voice(8.0, seed=21)
    codes = mimi.encode(pcm)
    assert codes.shape == (32, 100)
    assert min(entropy(row) for row in codes) > 5.0
    audio = mimi.decode(codes)
    assert np.isfinite(audio).all()
    assert 0.01 < audio.std() < 0.5


def test_number_of_codebooks(tmp_path: Path) -> None:
    write_mimi(tmp_path / "m", size="small", num_codebooks=3)
    assert load(tmp_path / "m", num_codebooks=3).max_codebooks == 3
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["quantizer"]["n_q"] == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": "tiny"}, "full, small"),
        ({"layout": "onnx"}, "kyutai-current"),
        ({"dtype": "int8"}, "bf16"),
        ({"seed": -1}, "seed is -1"),
        ({"num_codebooks": 1}, "2 to 256"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(kaiwa.errors.InputError, match=says):
        write_mimi(tmp_path / "m.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_a_foreign_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(kaiwa.errors.InputError, match="another model"):
        write_mimi(tmp_path / "m.safetensors", size="small")
    assert (tmp_path / "config.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_voice_is_like_speech() -> None:
    signal = voice(10.0, seed=0)
    assert signal.shape == (240_000,)
    assert np.abs(signal).max() == pytest.approx(0.5, abs=1e-3)
    loudness = np.sqrt(np.mean(signal.reshape(-1, FRAME) ** 2, axis=1))
    assert loudness.max() > 5 * np.quantile(loudness, 0.1)
    spectrum = np.abs(np.fft.rfft(signal)) ** 2
    below_4k = spectrum[: len(spectrum) // 3].sum() / spectrum.sum()
    assert below_4k > 0.8
    assert np.array_equal(signal, voice(10.0, seed=0))
    assert not np.array_equal(signal, voice(10.0, seed=1))

"""`kaiwa run`, `convert`, `synth moshi` and `info` on a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

import kaiwa
from kaiwa.cli.convert import FORMATS
from kaiwa.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "tiny"
    assert main(["synth", "moshi", "--size", "tiny", "--format", "gguf-q8", str(folder)]) == 0
    return folder


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    t = np.arange(int(2.77 * 44_100)) / 44_100
    path = tmp_path / "in.wav"
    sf.write(path, (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32), 44_100)
    return path


def test_the_names_of_formats_stay() -> None:
    assert FORMATS == (
        "pytorch-bf16",
        "safetensors-bf16",
        "safetensors-f32",
        "pytorch-int8",
        "candle-bf16",
        "gguf-q8",
        "candle-q8",
        "gguf-q4",
        "mlx-bf16",
        "mlx-q8",
        "mlx-q4",
    )


def test_run_keeps_length_and_clock(
    model: Path, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "out.wav", tmp_path / "out.jsonl"
    arguments = ["run", str(wav), str(out), "--text", str(text), "--model", str(model)]
    assert main([*arguments, "--seed", "3"]) == 0
    message = capsys.readouterr().err
    assert "real-time factor" in message
    assert "mimi encode" in message
    assert "lm" in message
    info = sf.info(out)
    assert (info.samplerate, info.frames) == (24_000, -(-int(2.77 * 44_100) * 24_000 // 44_100))
    lines = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    assert lines
    assert all(set(line) == {"t", "text"} for line in lines)
    times = [line["t"] for line in lines]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 2.8
    # Frame n is said while frame n is heard: the model's first frame is at the beginning.
    duplex = kaiwa.Duplex.from_pretrained(model, seed=3, prime=True, device="cpu")
    first = duplex.step(np.zeros((1, 1920), np.float32))
    assert first.ready[0]
    again = tmp_path / "again.wav"
    assert main(["run", str(wav), str(again), "--model", str(model), "--seed", "3", "--quiet"]) == 0
    assert again.read_bytes() == out.read_bytes()
    other = tmp_path / "other.wav"
    assert main(["run", str(wav), str(other), "--model", str(model), "--seed", "4"]) == 0
    assert other.read_bytes() != out.read_bytes()


def test_run_without_tokenizer_gives_tokens(model: Path, wav: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    arguments = ["synth", "moshi", "--no-tokenizer", str(bare)]
    assert main(arguments) == 0
    text = tmp_path / "t.jsonl"
    arguments = ["run", str(wav), str(tmp_path / "o.wav"), "--text", str(text), "--model"]
    assert main([*arguments, str(bare)]) == 0
    lines = [json.loads(line) for line in text.read_text().splitlines()]
    assert lines
    assert all(set(line) == {"t", "token"} for line in lines)


@pytest.mark.parametrize("name", FORMATS)
def test_convert_and_run_on(model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "made"
    assert main(["convert", str(model), str(out), "--to", name]) == 0
    moshi = kaiwa.Moshi.from_pretrained(out, device="cpu")
    stream = moshi.stream(seed=1)
    for step in range(3):
        result = stream.step(np.full((1, 8), step))
    assert result.ready[0]
    assert not list(out.glob(".*"))


def test_what_convert_writes_runs(
    model: Path, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new config.json refers to the codec and tokenizer of the source, also through two."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["convert", str(model), str(first), "--to", "mlx-q4"]) == 0
    assert main(["convert", str(first), str(second), "--to", "pytorch-int8"]) == 0
    text = tmp_path / "t.jsonl"
    arguments = ["run", str(wav), str(tmp_path / "o.wav"), "--text", str(text), "--model"]
    assert main([*arguments, str(second)]) == 0
    assert all("text" in json.loads(line) for line in text.read_text().splitlines())
    capsys.readouterr()
    assert main(["convert", str(model), str(first), "--to", "gguf-q4"]) == 0
    assert "names model.q4.safetensors" in capsys.readouterr().err
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    assert main(["convert", str(model), str(second), "--to", "gguf-q4"]) == 2
    assert "other sizes" in capsys.readouterr().err
    assert not (second / "model.q4.gguf").exists()
    bare = tmp_path / "bare"
    assert main(["synth", "moshi", "--no-mimi", "--no-tokenizer", str(bare)]) == 0
    assert main([*arguments, str(bare)]) == 2
    assert "no codec beside the language model" in capsys.readouterr().err


def test_info_tells_a_language_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (model, model / "model.q8.gguf"):
        assert main(["info", str(source), "--json"]) == 0
        rows: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert rows["kind"] == "language model"
        assert rows["layout"] == "Candle GGUF"
        assert rows["spoken_codebooks"] == 8
        assert rows["parameters"] > 1e6


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("does not exist", ["run", "IN", "o.wav", "--model", "nowhere/at/all"]),
        ("also the audio file", ["run", "IN", "o.wav", "--text", "o.wav", "--model", "MODEL"]),
        ("end it in", ["run", "IN", "o.xyz", "--model", "MODEL"]),
        ("end in .gguf", ["convert", "MODEL", "x.safetensors", "--to", "gguf-q8"]),
        ("does not exist", ["convert", "nowhere", "x.gguf", "--to", "gguf-q8"]),
        ("is a file", ["synth", "moshi", "IN"]),
    ],
)
def test_errors(
    words: str,
    arguments: list[str],
    model: Path,
    wav: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAIWA_MODEL", raising=False)
    names = {"IN": str(wav), "MODEL": str(model)}
    before = set(tmp_path.iterdir())
    assert main([names.get(a, a) for a in arguments]) == 2
    assert words in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before

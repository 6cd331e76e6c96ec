"""Broken, foreign and missing checkpoints: a table of files, each with its error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kaiwa


@pytest.fixture
def folder(mimi_small: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "mimi.safetensors"):
        shutil.copy(mimi_small / name, tmp_path)
    return tmp_path


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "mimi.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return apply


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "mimi.safetensors"
        loaded = load_file(path)
        change(loaded)
        save_file(loaded, path)

    return apply


def config(**entries: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        value = json.loads(path.read_text())
        for key, entry in entries.items():
            target, _, name = key.rpartition("__")
            (value[target] if target else value)[name] = entry
        path.write_text(json.dumps(value))

    return apply


def text(content: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "config.json").write_text(content)

    return apply


def nan_in_norm(t: dict[str, Any]) -> None:
    t["encoder_transformer.transformer.layers.0.norm1.weight"][3] = np.nan


KEY = "decoder.model.0.conv.conv.weight"
CASES: list[tuple[str, Callable[[Path], None], str]] = [
    ("truncated", bytes_of(lambda b: b[:-1000]), "download it again"),
    ("half a header", bytes_of(lambda b: b[:100]), "header"),
    ("empty", bytes_of(lambda b: b""), "empty"),
    ("longer", bytes_of(lambda b: b + b"\0" * 10), "promises"),
    ("a huge header", bytes_of(lambda b: (2**62).to_bytes(8, "little") + b[8:]), "header"),
    ("not JSON", bytes_of(lambda b: b[:8] + b"{" * 50 + b[58:]), "header"),
    ("LFS", bytes_of(lambda b: b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    ("a web page", bytes_of(lambda b: b"<!DOCTYPE html><html></html>"), "web page"),
    ("a pickle", bytes_of(lambda b: b"PK\x03\x04" + b"\0" * 100), "safetensors"),
    ("GGUF", bytes_of(lambda b: b"GGUF" + b"\0" * 100), "GGUF"),
    ("missing", tensors(lambda t: t.pop(KEY)), KEY),
    ("surplus", tensors(lambda t: t.update(extra=np.zeros(3, np.float32))), "extra"),
    ("misshapen", tensors(lambda t: t.update({KEY: t[KEY][:, :, :5].copy()})), "implies"),
    ("integers", tensors(lambda t: t.update({KEY: t[KEY].astype(np.int32)})), "F32"),
    ("NaN", tensors(nan_in_norm), "norm1.weight"),
    ("other sizes", config(seanet__n_filters=8), "config"),
    ("fewer codebooks", config(quantizer__n_q=8), "8"),
    ("heads", config(transformer__num_heads=5), "num_heads"),
    ("not causal", config(seanet__causal=False), "causal"),
    ("activation", config(seanet__activation="ReLU"), "activation"),
    ("absurd", config(seanet__n_filters=10**12), "n_filters"),
    ("frame rate", config(frame_rate=13.0), "frame_rate"),
    ("a list", text("[1, 2]"), "JSON object"),
    ("no JSON", text("{oops"), "not JSON"),
]


@pytest.mark.parametrize(("damage", "word"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_damaged_checkpoints(damage: Callable[[Path], None], word: str, folder: Path) -> None:
    kaiwa.Mimi.from_pretrained(folder)  # fine before
    damage(folder)
    with pytest.raises(kaiwa.CheckpointError, match=re.escape(word)) as caught:
        kaiwa.Mimi.from_pretrained(folder)
    assert "\n" not in str(caught.value), "one line"


def test_missing_files(tmp_path: Path, folder: Path) -> None:
    wanted = pytest.raises(kaiwa.CheckpointNotFoundError, match=r"does not exist|no codec weights")
    for source in (tmp_path / "no.safetensors", str(tmp_path / "nothing"), "no-such-model"):
        with wanted:
            kaiwa.Mimi.from_pretrained(source)
    (tmp_path / "hollow").mkdir()
    with wanted:
        kaiwa.Mimi.from_pretrained(tmp_path / "hollow")
    with wanted:
        kaiwa.Mimi.from_pretrained(folder, config=tmp_path / "no.json")
    with pytest.raises(FileNotFoundError):
        kaiwa.Mimi.from_pretrained(tmp_path / "no.safetensors")


OFFLINE = """
import sys
import kaiwa
try:
    kaiwa.Mimi.from_pretrained("kyutai/mimi", cache_dir=sys.argv[1])
except kaiwa.DownloadError as error:
    assert "local copy" in str(error), error
    print("refused")
"""


def test_a_repository_without_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)],
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr


def test_ways_to_name_a_codec(folder: Path, mimi: kaiwa.Mimi, pcm: Any) -> None:
    want = mimi.encode(pcm)
    weights = folder / "mimi.safetensors"
    value = json.loads((folder / "config.json").read_text())

    def same(source: Path | str, **options: Any) -> None:
        codec = kaiwa.Mimi.from_pretrained(source, **options)
        np.testing.assert_array_equal(codec.encode(pcm), want)

    same(folder)
    same(str(folder))
    same(weights)
    same(weights, config=value)
    moved = (folder / "config.json").rename(folder / "codec.json")
    same(weights, config=moved)
    same(weights, config=str(moved))
    with pytest.raises(kaiwa.CheckpointError):
        kaiwa.Mimi.from_pretrained(weights)  # the released sizes do not fit
    # A language model's folder names its codec and the codec's configuration.
    named = {
        "model_type": "moshi",
        "mimi_name": "codec.safetensors",
        "mimi_config_name": moved.name,
    }
    (folder / "config.json").write_text(json.dumps(named))
    weights.rename(folder / "codec.safetensors")
    (folder / "model.safetensors").write_bytes(b"the language model")
    same(folder)

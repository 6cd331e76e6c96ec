"""`kaiwa info` and `kaiwa doctor`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaiwa import _native
from kaiwa.cli import doctor, nvidia_smi
from kaiwa.errors import DeviceError
from kaiwa.synth import write_mimi


def info(run: Callable[..., Any], *args: object) -> Any:
    """The JSON of a successful `kaiwa info`."""
    outcome = run("info", *args, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.mark.parametrize(
    ("layout", "words", "tensors"),
    [
        ("kyutai", "mimi, Kyutai (released)", 138),
        ("kyutai-current", "mimi, Kyutai (current)", 138),
        ("hf", "mimi, Hugging Face transformers", 146),
    ],
)
def test_a_checkpoint_and_its_folder(
    layout: str, words: str, tensors: int, run: Callable[..., Any], tmp_path: Path
) -> None:
    report = write_mimi(tmp_path / "m", size="small", layout=layout)
    for source in (report.weights, tmp_path / "m"):
        found = info(run, source)
        assert found["kind"] == "checkpoint"
        assert found["layout"] == words
        assert found["tensors"] == found["types"]["F32"] == tensors
        assert found["parameters"] == report.parameters
        assert found["codebooks"] == 12
        assert found["file_bytes"] == report.weights.stat().st_size
    listed = info(run, report.weights, "--tensors")["tensor_list"]
    assert len(listed) == tensors


def test_codes(run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.safetensors"
    assert run("encode", wav, target, "--model", small, "--num-codebooks", 4).code == 0
    found = info(run, target)
    assert found["kind"] == "codes"
    assert (found["frames"], found["num_codebooks"], found["cardinality"]) == (19, 4, 64)
    assert found["seconds"] == 1.5
    assert found["bits_per_second"] == 12.5 * 4 * 6
    assert found["model"] == str(small)
    renamed = target.rename(tmp_path / "speech.codes")
    assert info(run, renamed)["kind"] == "codes"


def test_audio(run: Callable[..., Any], wav: Path) -> None:
    found = info(run, wav)
    assert (found["kind"], found["sample_rate"], found["channels"]) == ("audio", 24_000, 1)
    assert found["seconds"] == 1.5
    shown = run("info", wav)
    assert shown.code == 0
    assert "sample rate  24000" in shown.out


def test_what_cannot_be_described(run: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("missing.wav", "missing.safetensors"):
        assert run("info", tmp_path / name).code == 2
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    assert run("info", text).code == 2
    assert "text.safetensors" in run("info", text).error


def test_doctor(run: Callable[..., Any]) -> None:
    outcome = run("doctor", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["kernels"] in found["kernels_available"]
    assert found["threads"] >= 1
    assert 0 < found["memory"]["available_gib"] <= found["memory"]["total_gib"]
    assert found["kaiwa"] == found["build"]["version"]
    assert {"wav", "flac", "mp3", "ogg", "opus"} <= set(found["audio"]["writes"])
    assert set(found["packages"]) >= {"soundfile", "rustymimi", "torch"}
    shown = run("doctor")
    assert shown.code == 0
    assert str(found["kernels"]) in shown.out


def test_doctor_says_what_gpu_there_is(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    built = list(_native.build_info()["cuda"])
    found = json.loads(run("doctor", "--json").out)["gpu"]
    assert (found["card"], found["driver"], found["capability"]) == (None, None, None)
    assert found["built_for"] == built

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06, 9.0'\n")
    tool.chmod(0o755)
    found = json.loads(run("doctor", "--json").out)["gpu"]
    assert (found["card"], found["driver"]) == ("NVIDIA H100 80GB HBM3", "580.65.06")
    assert found["capability"] == "9.0"
    if not built:
        assert found["problem"] == "this build has no CUDA"


def test_doctor_says_whether_card_and_build_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAIWA_CUDA", raising=False)
    monkeypatch.setattr(nvidia_smi, "query", lambda fields, seconds: {"driver": "580.65.06"})
    build = {**_native.build_info(), "features": ["cuda"], "cuda": ["sm_90", "compute_90"]}
    monkeypatch.setattr(_native, "build_info", lambda: build)
    monkeypatch.setattr(_native, "describe_device", lambda _: ("H100", (9, 0)))
    found = doctor.report()["gpu"]
    assert found == {
        "card": "H100",
        "driver": "580.65.06",
        "capability": "9.0",
        "built_for": ["sm_90", "compute_90"],
        "kernels": "candle",
        "problem": None,
    }
    monkeypatch.setenv("KAIWA_CUDA", "own")
    assert doctor.report()["gpu"]["kernels"] == "own"
    monkeypatch.setenv("KAIWA_CUDA", "mine")
    assert "KAIWA_CUDA" in doctor.report()["gpu"]["problem"]
    monkeypatch.delenv("KAIWA_CUDA")

    def refuse(_: str) -> None:
        raise DeviceError("it has compute capability 7.5")

    monkeypatch.setattr(_native, "describe_device", refuse)
    assert doctor.report()["gpu"]["problem"] == "it has compute capability 7.5"


def test_folder_without_a_model(run: Callable[..., Any], small: Path, tmp_path: Path) -> None:
    shutil.copy(small / "config.json", tmp_path)
    outcome = run("info", tmp_path)
    assert outcome.code == 2
    assert str(tmp_path) in outcome.error

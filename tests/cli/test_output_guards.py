"""Outputs that must not be written over: the input itself, devices; links are followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, np.sin(np.arange(4000) / 20) * 0.3, 24_000)
    return path


def test_the_input_is_never_the_output(run: Callable[..., Any], small: Path, wav: Path) -> None:
    before = wav.read_bytes()
    link = wav.with_name("link.wav")
    link.symlink_to(wav)
    for target in (wav, link):
        outcome = run("encode", wav, target, "--model", small)
        assert outcome.code == 2
        assert "also the input" in outcome.err
    assert wav.read_bytes() == before


def test_a_device_stays_a_device(run: Callable[..., Any], small: Path, wav: Path) -> None:
    pipe = wav.with_name("pipe")
    os.mkfifo(pipe)
    outcome = run("encode", wav, pipe, "--model", small)
    assert outcome.code == 2
    assert "regular file" in outcome.err
    assert pipe.is_fifo()


def test_a_link_is_followed(run: Callable[..., Any], small: Path, wav: Path) -> None:
    real, link = wav.with_name("real.codes"), wav.with_name("link.codes")
    link.symlink_to(real)
    assert run("encode", wav, link, "--model", small).code == 0
    assert link.is_symlink()
    assert real.stat().st_size > 0

"""A small model, audio, and ways to run the program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from kaiwa.cli import main
from kaiwa.synth import voice, write_mimi


@dataclass(frozen=True)
class Outcome:
    """What a run of the program gave."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line on standard error, which must be an error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("kaiwa: error: "), self.err
        return lines[0]


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small model (12 codebooks of 64)."""
    folder = tmp_path_factory.mktemp("small-model")
    write_mimi(folder, size="small")
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process, without a default model."""
    monkeypatch.delenv("KAIWA_MIMI", raising=False)

    def call(*args: object) -> Outcome:
        capfd.readouterr()
        code = main([str(a) for a in args])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def spawn() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program, or any Python arguments, in a process of its own."""

    def call(
        *args: object, module: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(["-m", "kaiwa.cli"] if module else []), *map(str, args)]
        environment = {k: v for k, v in os.environ.items() if k != "KAIWA_MIMI"} | variables
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, check=False
        )

    return call


def _speech(seconds: float, rate: int, channels: int = 1) -> NDArray[np.float32]:
    """Synthetic voice `[samples, channels]`; the second channel is another voice."""
    return np.stack([voice(seconds, seed=c, sample_rate=rate) for c in range(channels)], axis=1)


@pytest.fixture(scope="session")
def speech() -> Callable[..., NDArray[np.float32]]:
    """Makes synthetic voice: `speech(seconds, rate, channels)` to `[samples, channels]`."""
    return _speech


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """1.5 s of voice at 24 kHz as 16-bit wav: 18.75 frames."""
    path = tmp_path / "voice.wav"
    soundfile.write(path, _speech(1.5, 24_000), 24_000, subtype="PCM_16")
    return path

"""The program as a process: memory, interrupts, pipes, and what it prints about itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kaiwa import codes_file

#: Runs the program, then prints the most memory the process ever held, in MiB.
MEASURED = """
import resource, sys
from kaiwa.cli import main
code = main(sys.argv[1:])
unit = 1 if sys.platform == "darwin" else 1024
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
sys.exit(code)
"""


def write_long(path: Path, minutes: float, rate: int = 44_100) -> None:
    """A stereo wav of soft noise, written in pieces."""
    rng = np.random.default_rng(0)
    second = rng.uniform(-0.2, 0.2, (rate, 2)).astype(np.float32)
    with soundfile.SoundFile(path, "w", rate, 2, subtype="PCM_16", format="WAV") as file:
        for _ in range(round(60 * minutes)):
            file.write(second)


def peak(spawn: Callable[..., Any], *args: object) -> float:
    """Most memory of a run, MiB."""
    done = spawn("-c", MEASURED, *args, "--quiet", module=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"peak ([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def test_memory_does_not_grow_with_the_file(
    spawn: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    minutes = 12.0
    decoded_mib = minutes * 60 * 24_000 * 4 / 2**20
    short, long = tmp_path / "short.wav", tmp_path / "long.wav"
    write_long(short, 0.2)
    write_long(long, minutes)
    encode = [
        peak(spawn, "encode", path, path.with_suffix(".safetensors"), "--model", small)
        for path in (short, long)
    ]
    assert codes_file.read_info(long.with_suffix(".safetensors")).seconds == 60 * minutes
    decode = [
        peak(spawn, "decode", path.with_suffix(".safetensors"), path, "--model", small)
        for path in (short, long)
    ]
    assert soundfile.info(long).frames == 60 * minutes * 24_000
    assert encode[1] - encode[0] < decoded_mib / 2, encode
    assert decode[1] - decode[0] < decoded_mib / 2, decode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_partial_file(
    number: signal.Signals, code: int, small: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "codes.safetensors", tmp_path / "out.wav"
    frames = 400_000
    info = codes_file.CodesInfo(24_000, 12.5, 1920, frames * 1920, 8, 64)
    codes_file.write(source, np.zeros((8, frames), np.uint16), info)
    command = [sys.executable, "-m", "kaiwa.cli", "decode", *map(str, (source, target))]
    command += ["--model", str(small)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".out.*.part.wav")):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline, "no output begun"
                time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert len(err.splitlines()) == 1, err
    assert os.listdir(tmp_path) == ["codes.safetensors"]


#: Runs the program while no file may grow beyond 200 kB, as if the disk were full.
FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from kaiwa.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("ending", ["wav", "flac", "safetensors"])
def test_a_full_disk_is_a_failure_without_leftovers(
    ending: str, spawn: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / f"out.{ending}"
    if ending == "safetensors":
        write_long(source, 12.0, rate=8000)
        command = "encode"
    else:
        values = np.random.default_rng(0).integers(0, 64, (8, 900), np.uint16)
        info = codes_file.CodesInfo(24_000, 12.5, 1920, 900 * 1920, 8, 64)
        codes_file.write(source, values, info)
        command = "decode"
    options = ["--num-codebooks", 12] if command == "encode" else []
    done = spawn("-c", FULL_DISK, command, source, target, "--model", small, *options, module=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("kaiwa: error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_version_and_help(spawn: Callable[..., Any]) -> None:
    version = spawn("--version")
    assert version.returncode == 0
    assert re.fullmatch(r"kaiwa \d+\.\d+\S*\n", version.stdout)
    top = spawn("--help")
    assert top.returncode == 0
    for command in ("encode", "decode", "info", "doctor", "synth", "bench"):
        assert command in top.stdout
        shown = spawn(command, "--help")
        assert shown.returncode == 0
        assert shown.stdout.startswith(f"usage: kaiwa {command}")


def test_help_loads_nothing_heavy(spawn: Callable[..., Any]) -> None:
    script = (
        "import sys; from kaiwa.cli import main; main(['encode', '--help']); "
        "print(sorted({'soundfile', 'rich', 'huggingface_hub', 'torch'} & set(sys.modules)))"
    )
    done = spawn("-c", script, module=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")


def test_no_progress_bar_without_a_terminal(
    spawn: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    done = spawn("encode", wav, tmp_path / "c.safetensors", "--model", small)
    assert done.returncode == 0
    assert done.stdout == ""
    assert re.fullmatch(r".*: 1\.50 s of audio, .* real time\n", done.stderr)

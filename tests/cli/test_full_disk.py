"""A disk without room: one line that says so, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .conftest import Run

SCRIPT = """
import os, sys
from kaiwa.cli import main
disk, small, wav, codes, room = sys.argv[1:]
assert os.system(f"mount -t tmpfs -o size={room}k tmpfs {disk}") == 0, "no mount"
for ending in (".wav", ".flac", ".opus"):
    assert main(["decode", codes, f"{disk}/o{ending}", "--model", small, "--quiet"]) == 1
words = ["--model", small, "--quiet", "--num-codebooks", "12"]
assert main(["encode", wav, f"{disk}/o.codes", *words]) == 1
assert main(["synth", "mimi", f"{disk}/m", "--quiet"]) == 1
open(f"{disk}/m/filling", "wb", buffering=0).write(bytes(4096))
assert main(["key", "add", "anna", "--file", f"{disk}/keys.json"]) in (1, 2)
assert [n for n in os.listdir(disk) if n not in ("m", ".keys.json.lock")] == []
"""


def test_a_full_disk_is_named(run: Run, small: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no program unshare on this machine")
    wav, codes, disk = tmp_path / "i.wav", tmp_path / "i.codes", tmp_path / "disk"
    disk.mkdir()
    soundfile.write(wav, np.sin(np.arange(480_000) / 9) * 0.3, 24_000)
    assert run("encode", wav, codes, "--model", small).code == 0
    # One page of memory is less than any of the files.
    words = [sys.executable, "-c", SCRIPT, disk, small, wav, codes, "4"]
    done = subprocess.run(
        ["unshare", "--mount", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=300,
        check=False,
    )
    if "unshare failed" in done.stderr or "no mount" in done.stderr:
        pytest.skip("nothing may be mounted here")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith("kaiwa: error: ")
        assert "No space left on device" in line
        assert "make room" in line

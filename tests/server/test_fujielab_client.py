"""The genuine client library of the package fujielab-moshi-client holds a conversation."""

from __future__ import annotations

import ctypes.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.live import running


@pytest.mark.skipif(
    ctypes.util.find_library("opus") is None,
    reason="fujielab's client needs the system's libopus (Debian: libopus0)",
)
def test_the_genuine_client_converses() -> None:
    script = Path(__file__).with_name("fujielab_client.py")
    with running(model="synth:tiny") as server:
        done = subprocess.run(
            [sys.executable, str(script), str(server.port), "4"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["connected"], done.stderr
    assert figures["seconds"] > 3.0, figures
    assert figures["rms"] > 0.005, figures
    assert figures["pieces"] > 5, figures

"""The genuine client of the package `moshi` holds a conversation with our server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.server.live import running


def test_the_genuine_client_converses() -> None:
    script = Path(__file__).with_name("moshi_client.py")
    with running(model="synth:tiny") as server:
        done = subprocess.run(
            [sys.executable, str(script), str(server.port), "3"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    figures, lines = map(json.loads, done.stdout.splitlines())
    assert figures["seconds"] > 2.0
    assert figures["rms"] > 0.005
    assert sum(line.startswith("print_token") for line in lines) > 10
    assert not any("Lost connection" in line for line in lines), lines
    # Messages of other kinds than audio and text are told to the person; two are expected.
    strange = [line for line in lines if "unknown message kind" in line]
    assert len(strange) <= 2, strange

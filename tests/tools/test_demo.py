"""The first thing that a stranger runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import soundfile
from tools.recorded_call import SECONDS, TURNS

from tools import demo

ROOT = Path(__file__).parents[2]


def test_it_calls_prints_and_leaves_the_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(["--once", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for _, asked, answered in TURNS:
        assert re.search(rf"you    {asked}\n.*kaiwa  {answered}\n", printed), printed
    for name in ("question.wav", "answer.wav"):
        sound, rate = soundfile.read(tmp_path / name)
        assert rate == 24_000
        assert abs(len(sound) / rate - SECONDS) < 0.1
        assert abs(sound).max() > 0.1
        assert f"{tmp_path / name}" in printed


def test_then_the_page_is_served_until_it_is_interrupted(tmp_path: Path) -> None:
    port = demo.any_port()
    command = [sys.executable, "-m", "tools.demo", "--port", str(port), "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if f"open http://127.0.0.1:{port} " in line:
                break
        else:
            pytest.fail("it never said where the page is")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"Kaiwa" in page.read()
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(timeout=30) == 0
    assert demo.free(port)


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            demo.main(["--port", str(port), "--out", str(tmp_path)])
    assert f"port {port} is in use" in str(end.value)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """As with a broken installation: the last line of its log is shown."""
    log = tmp_path / "server.log"
    log.write_text("loading\nkaiwa: it is broken\n")
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]) as server:
        server.wait()
        with pytest.raises(SystemExit) as end:
            demo.wait_until_ready(server, 9, log)
    assert "kaiwa: it is broken" in str(end.value)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([], "no Python 3.10 or newer found"),
        (["python3"], "cargo not found"),
        (["python3", "cargo"], "no C compiler found"),
    ],
)
def test_a_missing_tool_is_one_clear_line(tools: list[str], message: str, tmp_path: Path) -> None:
    """With only some programs on the path."""
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    for name in tools:
        there = tmp_path / name
        there.symlink_to(sys.executable if name == "python3" else "/bin/true")
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        ["/bin/bash", "scripts/setup"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("scripts/setup: ")
    assert message in line

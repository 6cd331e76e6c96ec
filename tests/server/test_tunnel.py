"""`kaiwa serve --tunnel` with a program in cloudflared's place."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.server.live import At, spawn, wait_until

OPEN = ("--model", "synth:echo", "--port", "0", "--no-auth", "--insecure", "--tunnel")
URL = "https://some-quiet-words.trycloudflare.com"


def stand_in(folder: Path, script: str) -> str:
    """A PATH on which a script is cloudflared; gives the PATH."""
    made = folder / "cloudflared"
    made.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n", encoding="utf-8")
    made.chmod(0o755)
    return str(folder)


def test_the_address_of_the_tunnel_is_told_and_the_tunnel_ends_with_the_server(
    tmp_path: Path,
) -> None:
    script = f"""
with open({str(tmp_path / "asked")!r}, "w") as file:
    print(os.getpid(), *sys.argv[1:], file=file)
print("INF Requesting new quick Tunnel", file=sys.stderr)
print("INF |  {URL}  |", file=sys.stderr, flush=True)
while True:  # as it does, until it is told to stop
    print("INF something", "x" * 100, file=sys.stderr, flush=True)
    time.sleep(0.001)  # so that it fills the pipe and not the processor
"""
    process = spawn(*OPEN, PATH=stand_in(tmp_path, script))
    try:
        assert process.stderr is not None
        said = ""
        while f"from outside: {URL}\n" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        found = re.search(r"http://127\.0\.0\.1:(\d+) ", said)
        assert found, said
        port = int(found[1])
        pid, *asked = (tmp_path / "asked").read_text(encoding="utf-8").split()
        assert asked[0] == "tunnel"
        assert asked[asked.index("--url") + 1] == f"http://127.0.0.1:{port}"
        server = At(port)
        wait_until(lambda: server.ask("/readyz").status == 200, "ready")
        # What comes through the tunnel has its name.
        through = {"Host": URL[8:], "Origin": URL}
        assert server.ask("/v1/info", **through).status == 200
        assert server.ask("/v1/info", Host=URL[8:], Origin="https://evil.example").status == 403
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == 0
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    finally:
        process.kill()
        process.communicate()


def test_a_tunnel_that_does_not_open_ends_the_server(tmp_path: Path) -> None:
    path = stand_in(tmp_path, 'print("ERR no network", file=sys.stderr); sys.exit(1)')
    process = spawn(*OPEN, PATH=path)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cloudflared gave no address; run `cloudflared tunnel --url" in said


def test_without_a_program_for_it_nothing_is_started(tmp_path: Path) -> None:
    process = spawn(
        script=f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "gradio" else find(name, *rest)
from kaiwa import cli
sys.exit(cli.main(["serve", *{OPEN!r}]))
""",
        PATH=str(tmp_path),
    )
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "--tunnel needs cloudflared" in said
    assert "kaiwa serves" not in said

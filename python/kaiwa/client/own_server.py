"""A server of one's own: `kaiwa serve` in another process, on this machine only, for as long as it
is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from kaiwa.errors import KaiwaError


@dataclass(frozen=True)
class OwnServer:
    """Where it is."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"ws://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        """One answer over HTTP."""
        # Not through a proxy that the environment names: it is this machine.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def serving(*options: str, seconds: float | None = 120) -> Iterator[OwnServer]:
    """Starts a server with the options of `kaiwa serve`, and nothing of `KAIWA_*`; stops it with
    the block.

    Args:
        options: of `kaiwa serve`.
        seconds: how long loading the model may take; ``None`` is as long as it takes.

    Raises:
        KaiwaError: it did not start.
    """
    command = [sys.executable, "-m", "kaiwa.cli", "serve", "--port", "0", *options]
    clean = {k: v for k, v in os.environ.items() if k in ("KAIWA_THREADS",) or k[:6] != "KAIWA_"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean)
    assert process.stderr is not None
    said: list[str] = []
    reading = None
    try:
        line = process.stderr.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if not found:
            raise KaiwaError(f"the server did not start: {line}{process.stderr.read()}".rstrip())
        # Its log would fill the pipe; the end of it tells why it failed.
        reading = threading.Thread(target=_read, args=(process, said), daemon=True)
        reading.start()
        server = OwnServer(int(found[1]), process.pid)
        _until_ready(server, process, said, seconds)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reading is not None:
            reading.join(5)
        process.stderr.close()


def _read(process: subprocess.Popen[str], said: list[str]) -> None:
    """Keeps the last lines."""
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        del said[:-20]


def _until_ready(
    server: OwnServer, process: subprocess.Popen[str], said: list[str], seconds: float | None
) -> None:
    """Waits until the model is loaded."""
    until = None if seconds is None else time.monotonic() + seconds
    while until is None or time.monotonic() < until:
        with contextlib.suppress(OSError):
            if json.loads(server.get("/readyz"))["state"] == "ready":
                return
        if process.poll() is not None:
            time.sleep(0.1)
            errors = [line.partition("error: ")[2] for line in said if "kaiwa: error: " in line]
            raise KaiwaError(errors[-1].strip() if errors else f"the server ended: {said[-1:]}")
        time.sleep(0.1)
    raise KaiwaError("the server did not become ready; start `kaiwa serve` by hand to see why")

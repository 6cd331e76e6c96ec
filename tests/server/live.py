"""A server that really runs: in a thread, or as the program."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kaiwa.cli.serve import load as load_engine
from kaiwa.engine import Engine
from kaiwa.server.app import make_app
from kaiwa.server.build import Server, build
from kaiwa.server.lifecycle import drain
from kaiwa.server.protocols.base import WireProtocol
from kaiwa.server.protocols.registry import PROTOCOLS
from kaiwa.server.run import DrainingServer, config_of, listen
from kaiwa.server.settings import ServerSettings
from kaiwa.server.state import ServerState

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What an HTTP request gave."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class At:
    """Where a server listens."""

    port: int

    def url(self, **query: object) -> str:
        """Address of a call."""
        asked = f"?{urlencode(query)}" if query else ""
        return f"ws://127.0.0.1:{self.port}/api/chat{asked}"

    def ask(self, path: str, method: str = "GET", key: str | None = None, **headers: str) -> Answer:
        """One HTTP request."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            got = connection.getresponse()
            named = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, named, got.read())
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """A value of /metrics by the beginning of its line; 0 if there is none."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.ask("/metrics").body.decode(), re.M)
        return float(found[1]) if found else 0.0


class _Problems(logging.Handler):
    """Keeps what a server should not have to log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    #: What uvicorn warns of when a client is at fault.
    EXPECTED = ("Invalid HTTP request received.", "Unsupported upgrade request.")

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in self.EXPECTED:
            return
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.lines.append(text)


class Clock:
    """Seconds that pass as ever, and as many more at once as a test says.

    The server's own times go by it: ages of tokens, connections a minute, clients that take
    nothing. The engine's do not: time limits, idle calls, held calls.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def jump(self, seconds: float) -> None:
        """Lets time pass."""
        self._ahead += seconds


@dataclass
class Live(At):
    """A server in a thread of this process."""

    parts: Server
    loop: asyncio.AbstractEventLoop
    server: DrainingServer
    clock: Clock
    problems: list[str] = field(default_factory=list)

    @property
    def state(self) -> ServerState:
        return self.parts.state

    @property
    def engine(self) -> Engine:
        assert self.state.engine is not None
        return self.state.engine

    @property
    def quiet(self) -> bool:
        """Whether nothing of any call is left."""
        ready = self.engine.readiness
        loops = self.engine._loops.values()
        return not (
            ready.slots_used or ready.queue or self.parts.live or self.parts.held
        ) and not any(loop._sessions for loop in loops)

    def drain(self) -> None:
        """What the first SIGTERM does."""
        asyncio.run_coroutine_threadsafe(drain(self.parts), self.loop)


Load = Callable[[ServerSettings], Engine]


@contextmanager
def running(
    load: Load = load_engine,
    adjust: Callable[[Any], object] = lambda config: None,
    loaded: bool = True,
    protocols: tuple[WireProtocol, ...] = PROTOCOLS,
    **values: Any,
) -> Iterator[Live]:
    """A server in a thread, on a port of its own; by default of an engine without a model.

    Fails afterwards if it logged a warning or an error, or has kept anything of a call.
    """
    settings = ServerSettings(**{"model": "synth:echo", "resume_seconds": 2, **values})
    begun: Future[Live] = Future()
    problems = _Problems()
    clock = Clock()

    async def main() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        parts = build(settings, load, port=port, protocols=protocols, clock=clock)
        config = config_of(settings, make_app(parts), parts.connections, uploads=parts.uploads)
        adjust(config)
        server = DrainingServer(config, parts)
        loop = asyncio.get_running_loop()
        begun.set_result(Live(port, parts, loop, server, clock, problems.lines))
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    logging.getLogger().addHandler(problems)
    try:
        thread.start()
        live = begun.result(timeout=10)
        wait_until(lambda: live.server.started and (live.state.engine or not loaded), "loaded")
        yield live
        if live.state.engine is not None and hasattr(live.engine, "_native"):
            wait_until(lambda: live.quiet or not thread.is_alive(), "all calls gone")
    finally:
        live.server.should_exit = True
        thread.join(timeout=15)
        logging.getLogger().removeHandler(problems)
    assert not thread.is_alive()
    assert problems.lines == [], "\n".join(problems.lines)


def wait_until(met: Callable[[], object], what: str = "", seconds: float = 10.0) -> None:
    """Waits for something that another thread or process does."""
    until = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what or met}"
        time.sleep(0.01)


async def eventually(met: Callable[[], object], what: str = "", seconds: float = 10.0) -> None:
    """The same in an event loop."""
    until = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what or met}"
        await asyncio.sleep(0.01)


class Program(At):
    """`kaiwa serve` as a process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        super().__init__(port)
        self.process = process

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 15.0) -> tuple[int, str]:
        """Exit status and what was printed after the first line."""
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said


def spawn(*options: object, script: str | None = None, **variables: str) -> subprocess.Popen[str]:
    """`kaiwa serve` with options, or a script in its place."""
    start = ["-m", "kaiwa.cli", "serve"] if script is None else ["-c", script]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KAIWA_")}
    return subprocess.Popen(
        [sys.executable, *start, *map(str, options)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**clean, "PYTHONPATH": path, **variables},
    )


@contextmanager
def program(
    *options: object, script: str | None = None, ready: bool = True, port: int = 0
) -> Iterator[Program]:
    """`kaiwa serve` on a port, by default one of its own."""
    process = spawn("--port", port, *options, script=script)
    try:
        assert process.stderr is not None
        # Warnings may come before the line with the address; the end of the output ends the search.
        before: list[str] = []
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "".join(before)
            before.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+) ", line)
        served = Program(process, int(found[1]))
        if ready:
            wait_until(lambda: served.ask("/readyz").status == 200, "ready", 60)
        yield served
    finally:
        process.kill()
        process.communicate()

"""How `kaiwa serve` starts, drains, stops and fails, as a process that gets signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.server.live import Program, eventually, program, running, spawn, wait_until
from tests.server.wire import call, pcm16, refusal, tone

from kaiwa import demo
from kaiwa.engine import Engine
from kaiwa.server.settings import ServerSettings
from kaiwa.server.state import ServerState

ECHO = ("--model", "synth:echo")

#: The program, with something in place of WAIT that happens before its model is loaded.
SLOW = """
import sys, time
from kaiwa import cli
from kaiwa.cli import serve
load = serve.load
def slow(settings):
    WAIT
    return load(settings)
serve.load = slow
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


async def draining(served: Program) -> None:
    await eventually(lambda: served.ask("/readyz").json["state"] == "draining", "draining")


async def test_the_first_signal_drains_and_the_server_goes_with_its_last_call() -> None:
    with program(*ECHO, "--drain-seconds", 30) as served:
        async with call(served.url(format="pcm", pace="none")) as chat:
            served.signal()
            await draining(served)
            # The call goes on; nobody new gets in; the container is not unhealthy.
            await chat.say(*[pcm16(tone(1))] * 4)
            await chat.frames(4)
            status, error, headers = await refusal(served.url())
            assert (status, error["code"]) == (503, "draining")
            assert headers["retry-after"] == "5"
            ready = served.ask("/readyz")
            assert ready.status == 503
            assert ready.json["slots_used"] == 1
            assert served.ask("/healthz").status == 200
            assert served.ask("/startupz").status == 200
            assert served.metric("kaiwa_draining") == 1
            assert served.process.poll() is None
        status, said = served.ended()
    assert status == 0
    assert "Traceback" not in said
    assert " ERROR" not in said


async def test_a_server_without_calls_stops_at_once() -> None:
    with program(*ECHO) as served:
        started = time.monotonic()
        served.signal()
        assert served.ended()[0] == 0
        assert time.monotonic() - started < 3


async def test_calls_that_do_not_end_are_told_and_closed() -> None:
    with program(*ECHO, "--drain-seconds", 0.5) as served:
        async with call(served.url()) as chat, call(served.url()) as other:
            served.signal()
            assert await chat.gone() == (1012, "drain")
            assert await other.gone() == (1012, "drain")
        assert chat.said == other.said == ["server restarting"]
        status, said = served.ended()
    assert status == 0
    assert "Traceback" not in said


async def test_who_waits_for_a_slot_is_sent_away_by_a_drain() -> None:
    with program(*ECHO, "--slots", 1, "--drain-seconds", 1) as served:
        async with call(served.url()), call(served.url(), begin=False) as waiting:
            await eventually(lambda: served.metric("kaiwa_queue_waiting") == 1)
            served.signal()
            assert await waiting.gone() == (1012, "draining")
        assert served.ended()[0] == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(second: signal.Signals) -> None:
    with program(*ECHO, "--drain-seconds", 60) as served:
        async with call(served.url()) as chat:
            served.signal(signal.SIGINT)
            await draining(served)
            started = time.monotonic()
            served.signal(second)
            code, _ = await chat.gone()
            assert code == 1012
            _, said = served.ended()
            assert time.monotonic() - started < 3
    assert "Traceback" not in said
    assert " ERROR" not in said


async def test_a_held_call_does_not_delay_the_end() -> None:
    with program(*ECHO, "--resume-seconds", 60) as served:
        async with call(served.url(resumable=1)) as chat:
            chat.cut()

        def states() -> list[str]:
            return [row["state"] for row in served.ask("/v1/sessions").json["sessions"]]

        await eventually(lambda: states() == ["held"])
        served.signal()
        assert served.ended()[0] == 0


def test_an_engine_that_does_not_end_does_not_keep_the_process() -> None:
    # Ending the engine takes a minute, far longer than the server waits for it.
    script = SLOW.replace("WAIT", "from kaiwa.server import lifecycle").replace(
        "return load(settings)",
        "lifecycle.CLOSE_SECONDS = 0.2; engine = load(settings); "
        "engine.close = lambda: time.sleep(60); return engine",
    )
    with program(*ECHO, script=script) as served:
        served.signal()
        status, said = served.ended(5)
    assert status == 0
    assert "did not end" in said
    assert "Traceback" not in said


# ---- loading -----------------------------------------------------------------------------------


def test_health_while_the_model_loads(tmp_path: Path) -> None:
    # Opening a FIFO waits for somebody who opens its other end.
    go_on = tmp_path / "go_on"
    os.mkfifo(go_on)
    script = SLOW.replace("WAIT", f"open({str(go_on)!r}).close()")
    with program(*ECHO, script=script, ready=False) as served:
        assert served.ask("/healthz").status == 200
        assert served.ask("/").status == 200
        assert served.ask("/metrics").status == 200
        assert served.metric("kaiwa_engine_up") == 0
        startup = served.ask("/startupz")
        assert (startup.status, startup.json["state"]) == (503, "starting")
        ready = served.ask("/readyz")
        assert (ready.status, ready.json["state"]) == (503, "starting")
        assert served.ask("/v1/info").json["state"] == "starting"
        go_on.open("w").close()
        wait_until(lambda: served.ask("/readyz").status == 200, "ready")
        assert served.ask("/startupz").status == 200
        assert served.metric("kaiwa_engine_up") == 1


async def test_a_call_while_the_model_loads_is_refused() -> None:
    go_on = threading.Event()

    def load(settings: ServerSettings) -> Engine:
        go_on.wait(10)
        return Engine.echo()

    with running(load, loaded=False) as live:
        status, error, headers = await refusal(live.url())
        assert (status, error["code"], headers["retry-after"]) == (503, "starting", "5")
        go_on.set()
        await eventually(lambda: live.state.readiness == "ready")
        async with call(live.url()):
            pass


def test_a_signal_while_the_model_loads_stops_at_once() -> None:
    # Loading takes a minute, far longer than the test.
    with program(*ECHO, script=SLOW.replace("WAIT", "time.sleep(60)"), ready=False) as served:
        wait_until(lambda: served.ask("/healthz").status == 200)
        served.signal()
        status, said = served.ended(5)
    assert status == 0
    assert "Traceback" not in said


# ---- failures ----------------------------------------------------------------------------------


def outcome(*options: object, script: str | None = None) -> tuple[int, str]:
    """Exit status and messages of a server that does not come about."""
    process = spawn(*options, script=script)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
    return process.returncode, said


def test_without_a_model_the_demo_model_is_served_and_named() -> None:
    process = spawn("--port", 0)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().strip() == demo.HINT
        assert "kaiwa serves demo at " in process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    status, said = outcome("--model", tmp_path / "nothing", "--port", 0)
    assert status == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("kaiwa: error: ")
    assert "nothing" in last


def test_a_defect_while_loading_ends_the_server() -> None:
    script = SLOW.replace("WAIT", "raise RuntimeError('no such luck')")
    status, said = outcome("--port", 0, *ECHO, script=script)
    assert status == 1
    assert "no such luck" in said.strip().splitlines()[-1]


def test_a_model_that_cannot_be_loaded_is_no_drain(tmp_path: Path) -> None:
    status, said = outcome("--model", tmp_path / "nothing", "--port", 0)
    assert status == 2
    assert "the model could not be loaded; the server stops" in said
    assert "draining" not in said


def test_a_failure_does_not_count_as_the_end_of_a_drain() -> None:
    state = ServerState(ServerSettings(model="synth:echo"))
    state.start_drain()
    assert not state.failed.is_set()
    state.fail(RuntimeError("no such luck"))
    assert state.failed.is_set()
    assert not state.drained.is_set()


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = outcome(*ECHO, "--port", port)
    assert status == 1
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}: .*in use.*--port", said), said


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_of_this_machine(host: str) -> None:
    status, said = outcome(*ECHO, "--port", 0, "--host", host, "--no-auth", "--insecure")
    assert status == 1
    assert re.search(rf"cannot listen on {re.escape(host)}:0: .*--host", said), said


def test_the_port_of_metrics_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = outcome(*ECHO, "--port", 0, "--metrics-port", port)
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said


def test_serving_everybody_by_mistake_is_refused() -> None:
    status, said = outcome(*ECHO, "--host", "0.0.0.0", "--port", 0)
    assert status == 2
    assert "kaiwa key add" in said


# ---- an engine that has failed -----------------------------------------------------------------


async def test_a_server_whose_device_is_lost_is_unhealthy_and_says_so() -> None:
    with running(lambda _: Engine.echo(slots=2, lost_after=1)) as live:
        assert live.ask("/healthz").status == 200
        url = live.url(format="pcm", pace="none")
        async with call(url) as one, call(url) as other:
            await one.say(*[pcm16(tone(1))] * 4)
            for chat in (one, other):
                code, reason = await chat.gone()
                assert (code, reason) == (1011, "error")
                assert "device echo has failed" in chat.said[0]
        # At once, and not when its silence has lasted long enough.
        health = live.ask("/healthz")
        assert (health.status, health.json["state"]) == (503, "failed")
        assert live.ask("/startupz").status == 503
        ready = live.ask("/readyz")
        assert (ready.status, ready.json["state"]) == (503, "failed")
        status, error, _ = await refusal(live.url())
        assert (status, error["code"]) == (503, "failed")
        assert "the engine has failed" in error["message"]
        assert live.metric("kaiwa_engine_up") == 0
        await eventually(lambda: live.problems)
        [line] = live.problems
        assert "restart the server" in line
        assert "device echo has failed" in line
        live.problems.clear()


# ---- an engine that is stuck -------------------------------------------------------------------


class _Stuck:
    """An engine whose thread gives no sign of life."""

    name = "stuck"
    synthetic = True
    task = "duplex"
    moshi = None
    _loops: dict[Any, Any]

    def __init__(self) -> None:
        self.silent = 0.0
        self._loops = {}

    @property
    def readiness(self) -> SimpleNamespace:
        return SimpleNamespace(
            state="ready",
            slots_total=1,
            slots_used=0,
            queue=0,
            step_p95_seconds=0.0,
            predicted_seconds=0.0,
            state_bytes=0,
            silent_seconds=self.silent,
            now=0.0,
        )

    def close(self) -> None:
        pass


async def test_a_stuck_engine_is_told_and_takes_nobody() -> None:
    stuck: Any = _Stuck()
    with running(lambda _: stuck) as live:
        assert live.ask("/healthz").status == 200
        stuck.silent = 6.0
        health = live.ask("/healthz")
        assert (health.status, health.json["state"]) == (503, "stuck")
        assert live.ask("/startupz").status == 503
        ready = live.ask("/readyz")
        assert (ready.status, ready.json["state"]) == (503, "stuck")
        status, error, _ = await refusal(live.url())
        assert (status, error["code"]) == (503, "stuck")
        stuck.silent = 0.1
        assert live.ask("/healthz").status == 200

"""The pages in a browser, against the real server: talk, hear, read, survive a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from tests.server.live import program, running
from tests.web.conftest import ARTIFACTS
from tests.web.talking import figures, press, state, until

from kaiwa.client import connect
from kaiwa.client.wires import WIRES


@pytest.mark.parametrize("audio", ["opus", "pcm"])
def test_a_call_is_heard_and_read(page: Page, audio: str) -> None:
    with running(model="synth:tiny") as server:
        page.goto(f"http://127.0.0.1:{server.port}/?format={audio}")
        press(page)
        state(page, "active")
        until(page, "kaiwa.framesReceived >= 25 && kaiwa.captions.length > 0")
        seen = figures(page)
        assert seen["format"] == audio
        assert seen["peakOutputRms"] > 0.005, seen
        assert seen["framesSent"] >= seen["framesReceived"] > 0
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"real-call-{audio}.png")
        (row,) = server.ask("/v1/sessions").json["sessions"]
        assert row["state"] == "active"
        page.goto("about:blank")


def test_a_restart_is_survived(page: Page) -> None:
    options = ("--model", "synth:echo", "--drain-seconds", 0)
    with program(*options) as first:
        port = first.port
        page.goto(f"http://127.0.0.1:{port}/")
        press(page)
        until(page, "kaiwa.framesReceived >= 5")
        first.signal()
        status, _ = first.ended()
        assert status == 0
    before = figures(page)["framesReceived"]
    with program(*options, port=port):
        state(page, "active", 30)
        until(page, f"kaiwa.framesReceived > {before + 5}")
        page.goto("about:blank")


def test_the_operator_sees_a_live_call(page: Page) -> None:
    with running() as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        press(page)
        until(page, "kaiwa.framesReceived >= 5")
        ops = page.context.new_page()
        ops.goto(f"http://127.0.0.1:{server.port}/ops")
        ops.get_by_role("button", name="End").wait_for()
        ARTIFACTS.mkdir(exist_ok=True)
        ops.screenshot(path=ARTIFACTS / "real-ops.png")
        ops.close()
        page.goto("about:blank")


@contextmanager
def calls_by_every_protocol(port: int) -> Iterator[None]:
    """One call by each, on a thread of its own, for as long as the block lasts."""
    over, begun = threading.Event(), threading.Event()

    async def converse() -> None:
        async with AsyncExitStack() as stack:
            address = f"127.0.0.1:{port}"
            calls = [
                await stack.enter_async_context(connect(address, protocol=name)) for name in WIRES
            ]
            begun.set()
            while not over.is_set():
                for call in calls:
                    await call.send_pcm(np.zeros(1920, np.float32))
                await asyncio.sleep(0.08)

    thread = threading.Thread(target=lambda: asyncio.run(converse()))
    thread.start()
    try:
        assert begun.wait(20)
        yield
    finally:
        over.set()
        thread.join(20)


def test_the_operator_sees_by_which_protocol_each_call_came(page: Page) -> None:
    with running(slots=8) as server, calls_by_every_protocol(server.port):
        page.goto(f"http://127.0.0.1:{server.port}/ops")
        rows = page.locator("#sessions tr")
        expect(rows).to_have_count(len(WIRES))
        for name in WIRES:
            expect(rows.filter(has=page.get_by_role("cell", name=name, exact=True))).to_have_count(
                1
            )
        told = server.ask("/v1/sessions").json["sessions"]
        assert sorted(row["protocol"] for row in told) == sorted(WIRES)
        page.goto("about:blank")

"""Chromium, its microphone made of a file, and the fake server."""

from __future__ import annotations

import asyncio
import shutil
import wave
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from tests.web.fake_server import FakeServer, Script

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
CHROMIUM = Path("/usr/bin/chromium")
MISSING = (
    "the tests of the web page need Debian's Chromium: `apt-get install chromium` "
    "(or put another Chromium on the path as `chromium`)"
)
BASE = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
Launch = Callable[..., Browser]
Serve = Callable[[Script], FakeServer]


def in_a_thread(make: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Runs a coroutine on another thread: on that of the tests Playwright has an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make(*arguments))).result(60)


def chromium_path() -> str:
    found = str(CHROMIUM) if CHROMIUM.exists() else shutil.which("chromium")
    if found is None:
        pytest.fail(MISSING, pytrace=False)
    return found


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of a tone that rises from 300 to 3000 Hz, again and again."""
    rate, seconds = 48_000, 10
    t = np.arange(rate * seconds) / rate
    frequency = 300 * 10 ** ((t % 2) / 2)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(frequency) / rate)
    path = tmp_path_factory.mktemp("web") / "sweep.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    return path


# A file at a time: while a driver runs, its event loop keeps others from this thread, and other
# files have tests of their own loops.
@pytest.fixture(scope="module")
def playwright_driver() -> Iterator[Playwright]:
    path = chromium_path()  # before the driver starts: its absence is told at once
    assert path
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def launch(playwright_driver: Playwright) -> Iterator[Launch]:
    browsers: list[Browser] = []

    def launch(*arguments: str) -> Browser:
        browser = playwright_driver.chromium.launch(
            executable_path=chromium_path(), args=[*BASE, *arguments]
        )
        browsers.append(browser)
        return browser

    yield launch
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="module")
def browser(launch: Launch, microphone: Path) -> Browser:
    """A browser whose microphone hears the file, and is allowed to."""
    return launch(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    )


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that must not log an error, nor break the content policy."""
    page = context.new_page()
    page.set_default_timeout(15_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda message: (
            faults.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    yield page
    # Browsers log each refused connection and answer by themselves.
    told = [f for f in faults if "Failed to load resource" not in f and "WebSocket" not in f]
    assert told == []


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[FakeServer] = []

    def serve(script: Script) -> FakeServer:
        servers.append(FakeServer(script).start())
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def artifacts() -> Path:
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS

"""The page in a call, as tests see it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect
from tests.web.fake_server import Call, FakeServer

RATE = 24_000
FORMATS = ["opus", "pcm"]


def figures(page: Page) -> dict[str, Any]:
    found = page.evaluate("Object.fromEntries(Object.keys(kaiwa).map((k) => [k, kaiwa[k]]))")
    assert isinstance(found, dict)
    return found


def until(page: Page, condition: str, seconds: float = 15) -> None:
    """Asks again and again from here: in the page, its content policy forbids it."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, (condition, figures(page))
        time.sleep(0.05)


def state(page: Page, name: str, seconds: float = 15) -> None:
    until(page, f"kaiwa.state === {json.dumps(name)}", seconds)


def eventually(true: Callable[[], object], what: str = "it is true", seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def still(page: Page) -> None:
    """Waits until nothing on the page is on its way to somewhere."""
    until(
        page,
        """document.getAnimations().every((animation) =>
            animation.playState === "finished"
            || animation.effect.getComputedTiming().iterations === Infinity)""",
    )


def press(page: Page) -> None:
    page.locator("#call").click()


def talk(page: Page, server: FakeServer, query: str = "", frames: int = 12) -> Call:
    """Begins a call and waits until some of it was heard."""
    page.goto(server.url + "/" + query)
    press(page)
    until(page, f"kaiwa.framesReceived >= {frames}")
    return server.calls[-1]


def title(page: Page, text: str) -> None:
    expect(page.locator("#title")).to_have_text(text, timeout=15_000)


def rises(audio: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """The strongest frequency in each tenth of a second."""
    found = []
    size = RATE // 10
    for at in range(0, len(audio) - size, size):
        part = audio[at : at + size] * np.hanning(size)
        found.append(float(np.argmax(np.abs(np.fft.rfft(part)))) * RATE / size)
    return found

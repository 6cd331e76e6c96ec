"""How the page looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from tests.web.conftest import Serve
from tests.web.fake_server import Refusal, Script
from tests.web.talking import press, still, title, until


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(
    browser: Browser, serve: Serve, artifacts: Path, scheme: Any, width: int
) -> None:
    height = 844 if width == 390 else 800
    server = serve(Script(words_every=2, model="kyutai/moshika-candle-q8"))
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()

    def shoot(name: str) -> None:
        page.screenshot(path=artifacts / f"{name}-{scheme}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.goto(server.url + "/")
    expect(page.locator("#server")).to_contain_text("moshika")
    shoot("idle")
    page.locator("#settings summary").click()
    shoot("settings")
    page.locator("#settings summary").click()
    server.script.queue = (2, 1)
    server.script.queue_pause = 1.5
    press(page)
    title(page, "Waiting for a slot (position 2)")
    still(page)
    shoot("queued")
    server.script.queue = ()
    until(page, "kaiwa.framesReceived > 45")
    shoot("call")
    for element in ("#mute", "#end", "#log"):
        expect(page.locator(element)).to_be_in_viewport()
    server.script.refusals = [Refusal("full", "All 8 slots are taken.")]
    page.locator("#end").click()
    press(page)
    title(page, "Server full")
    still(page)
    shoot("error")
    context.close()

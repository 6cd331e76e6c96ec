"""The operator's page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.web.conftest import Serve
from tests.web.fake_server import Script
from tests.web.talking import eventually, still


def test_the_figures_are_shown(page: Page, serve: Serve) -> None:
    server = serve(Script())
    page.goto(server.url + "/ops")
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#used")).to_have_text("5")
    expect(page.locator("#total")).to_have_text("of 8 slots")
    expect(page.locator("#slots .on")).to_have_count(5)
    expect(page.locator("#queue")).to_have_text("1 waiting")
    expect(page.locator("#p95")).to_have_text("38")
    expect(page.locator("#percentiles")).to_have_text("p50 31, p99 61 ms")
    expect(page.locator("#missed")).to_have_text("12")
    expect(page.locator("#dropped")).to_have_text("35")
    expect(page.locator("#memory")).to_have_text("8.6")
    expect(page.locator("#rejected li")).to_have_count(3)
    expect(page.locator("#rejected li").first).to_have_text("full9")
    expect(page.locator("#sessions tr")).to_have_count(5)
    row = page.locator("#sessions tr").first
    expect(row).to_contain_text("front-desk")
    before = row.inner_text()
    expect(row).not_to_have_text(before, use_inner_text=True)  # it goes on asking


def test_the_chart_shows_what_was_too_slow(page: Page, serve: Serve) -> None:
    server = serve(Script())
    quiet = server._figures()
    up = quiet["uptime_seconds"]
    quiet["step"]["history"] = [[up - 60 + i * 0.08, 2, 0.02] for i in range(700)]
    server.stats = quiet
    page.goto(server.url + "/ops")
    expect(page.locator("#used")).to_have_text("5")
    red = """() => {
        const canvas = document.getElementById("chart");
        const copy = new OffscreenCanvas(canvas.width, canvas.height);
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data, width } = context.getImageData(0, 0, canvas.width, canvas.height);
        const rows = new Set(), columns = new Set();
        for (let i = 0; i < data.length; i += 4) {
            if (data[i] > 150 && data[i + 1] < 90 && data[i + 2] < 90 && data[i + 3] > 200) {
                rows.add(Math.floor(i / 4 / width));
                columns.add((i / 4) % width);
            }
        }
        return [rows.size, columns.size];
    }"""
    eventually(lambda: page.evaluate(red)[1] > 500, "the line of the deadline is drawn")
    rows, _ = page.evaluate(red)
    assert rows <= 3  # that line, and nothing else
    quiet["step"]["history"].append([up - 1, 2, 0.15])
    eventually(lambda: page.evaluate(red)[0] > 50, "the slow step is drawn")


def test_a_call_is_ended_after_a_question(page: Page, serve: Serve) -> None:
    server = serve(Script())
    page.goto(server.url + "/ops")
    name = page.locator("#sessions tr").first.locator("code").inner_text()
    page.get_by_role("button", name=f"End call {name}").click()
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    assert server.ended == []
    page.get_by_role("button", name=f"End call {name}").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#said")).to_have_text(f"Call {name} ended")
    expect(page.locator("#sessions tr")).to_have_count(4)
    assert server.ended == [name]


def test_the_key_of_an_operator_is_asked_for(page: Page, serve: Serve) -> None:
    server = serve(Script(operator_key="kw_operator"))
    page.goto(server.url + "/ops")
    expect(page.locator("#login")).to_be_visible()
    expect(page.locator("#data")).to_be_hidden()
    page.locator("#key").fill("kw_right")
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).to_have_text("This is for operators.")
    page.locator("#key").fill("kw_operator")
    page.keyboard.press("Enter")
    expect(page.locator("#data")).to_be_visible()
    page.reload()
    expect(page.locator("#data")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0


def test_a_server_that_is_gone_is_noticed(page: Page, serve: Serve) -> None:
    server = serve(Script())
    page.goto(server.url + "/ops")
    expect(page.locator("#data")).to_be_visible()
    server.reachable = False
    server.cut()
    expect(page.locator("#state")).to_have_text("Not reachable")
    server.reachable = True
    expect(page.locator("#state")).to_have_text("Ready")


def test_an_idle_server(page: Page, serve: Serve) -> None:
    server = serve(Script())
    server.stats = {
        "state": "starting", "model": "synth:tiny", "version": "0.1.0", "uptime_seconds": 1.0,
        "slots_total": 8, "slots_used": 0, "queue": 0, "budget_seconds": 0.06,
        "step": {"count": 0, "batch": 0, "last": 0, "p50": 0, "p95": 0, "p99": 0, "history": []},
        "frames": 0, "deadline_missed": 0, "dropped_input": 0, "dropped_output": 0,
        "rejected": {}, "memory": {"rss": 1, "weights": 1, "state": 1}, "sessions": [],
    }  # fmt: skip
    page.goto(server.url + "/ops")
    expect(page.locator("#state")).to_have_text("Starting")
    expect(page.locator("#no-sessions")).to_be_visible()
    expect(page.locator("#no-rejected")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(
    browser: Browser, serve: Serve, artifacts: Path, scheme: Any, width: int
) -> None:
    server = serve(Script(model="kyutai/moshika-candle-q8"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url + "/ops")
    expect(page.locator("#used")).to_have_text("5")
    still(page)
    page.screenshot(path=artifacts / f"ops-{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()

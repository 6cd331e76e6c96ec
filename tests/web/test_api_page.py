"""The page of HTTP routes, made by a browser of what the real server says."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from tests.server.live import running


def test_every_route_and_the_fields_of_its_answers_are_shown(page: Page) -> None:
    with running() as server:
        page.goto(f"http://127.0.0.1:{server.port}/docs")
        expect(page.locator("h1")).to_contain_text("Kaiwa")
        described = server.ask("/openapi.json").json["paths"]
        assert page.locator(".route").count() == sum(map(len, described.values()))
        stats = page.locator(".route", has_text="/v1/stats")
        expect(stats.locator(".key")).to_be_visible()
        stats.locator("summary").first.click()
        expect(stats.locator("pre").first).to_contain_text('"deadline_missed": integer')
        page.goto("about:blank")


def test_a_description_that_cannot_be_read_is_told(page: Page) -> None:
    with running() as server:
        page.route("**/openapi.json", lambda route: route.fulfill(status=500, body="no"))
        page.goto(f"http://127.0.0.1:{server.port}/docs")
        expect(page.locator(".error")).to_contain_text("the server answered 500")
        page.goto("about:blank")

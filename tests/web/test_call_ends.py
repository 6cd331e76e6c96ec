"""The page when a call is not let in, or ends: the queue, reasons, limits, keys."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect
from tests.web.conftest import Serve
from tests.web.fake_server import Refusal, Script
from tests.web.talking import figures, press, state, talk, title, until


def test_a_place_in_the_queue_is_told(page: Page, serve: Serve) -> None:
    server = serve(Script(queue=(3, 1), queue_pause=1.0))
    page.goto(server.url + "/")
    press(page)
    title(page, "Waiting for a slot (position 3)")
    assert figures(page)["framesSent"] == 0
    title(page, "Waiting for a slot (position 1)")
    expect(page.locator("#detail")).to_contain_text("You are next")
    until(page, "kaiwa.framesReceived > 3")
    assert server.calls[0].ogg.faults == []


def test_the_queue_can_be_left(page: Page, serve: Serve) -> None:
    server = serve(Script(queue=(2,), queue_pause=60))
    page.goto(server.url + "/")
    press(page)
    title(page, "Waiting for a slot (position 2)")
    page.locator("#end").click()
    state(page, "ended")
    expect(page.locator("#call")).to_be_visible()


@pytest.mark.parametrize(
    ("refusal", "shown", "detail"),
    [
        (Refusal("full", "All 8 slots are taken."), "Server full", "All 8 slots are taken."),
        (Refusal("overloaded"), "Server busy", "no time for one more conversation"),
        (Refusal("shed", "Too slow."), "Call ended", "Too slow."),
        (Refusal("input_too_fast"), "Call ended", "faster than time"),
        (Refusal("slow_consumer"), "Call ended", "too slow"),
        (Refusal("revoked"), "This key is no longer valid", "new one"),
        (
            Refusal("bad_token", "Unknown token."),
            "This token does not count any more",
            "Unknown",
        ),
        (Refusal("error", "It broke."), "Something failed on the server", "It broke."),
        (Refusal("garbage"), "The server did not understand the messages of this call", "client"),
        (Refusal("expired"), "Time limit reached", "only so long"),
        (Refusal("idle"), "Call ended", "No sound"),
        (Refusal("closed"), "Call ended", "operator"),
    ],
)
def test_why_a_call_ended_is_told(
    page: Page, serve: Serve, refusal: Refusal, shown: str, detail: str
) -> None:
    server = serve(Script(refusals=[refusal]))
    page.goto(server.url + "/")
    press(page)
    title(page, shown)
    expect(page.locator("#detail")).to_contain_text(detail)
    assert figures(page)["state"] == ("ended" if refusal.code == 1000 else "error")
    press(page)  # the next one is taken
    until(page, "kaiwa.framesReceived > 3")


def test_the_time_limit_is_shown_and_kept(page: Page, serve: Serve) -> None:
    server = serve(
        Script(max_seconds=95, end_after=[(25, Refusal("expired", "The 95 s are over."))])
    )
    talk(page, server)
    expect(page.locator("#limit")).to_have_text("of 1:35")
    title(page, "Time limit reached")
    expect(page.locator("#detail")).to_have_text("The 95 s are over.")


def test_no_server(page: Page, serve: Serve) -> None:
    server = serve(Script())
    page.goto(server.url + "/")
    server.reachable = False
    server.cut()
    press(page)
    title(page, "The server cannot be reached")
    server.reachable = True
    press(page)
    until(page, "kaiwa.framesReceived > 3")


def test_messages_that_mean_nothing_are_passed_over(page: Page, serve: Serve) -> None:
    """A later server may send more than this page knows."""
    page.add_init_script(
        """const Native = WebSocket;
        globalThis.WebSocket = class extends Native {
            constructor(url) { super(url); globalThis.socket = this; }
        };"""
    )
    talk(page, serve(Script()))
    before = figures(page)["framesReceived"]
    page.evaluate(
        """for (const bytes of [[], [9, 1], [7, 0, 65], [4, 123], [4, 49], [2, 255], [1], [1, 5, 6],
                [6], [6, 1], [0], [3]]) {
            socket.onmessage?.({ data: Uint8Array.from(bytes).buffer });
        }
        socket.onmessage?.({ data: "text" });"""
    )
    until(page, f"kaiwa.framesReceived > {before} + 10")
    assert figures(page)["state"] == "active"


def test_a_key_becomes_a_token(page: Page, serve: Serve) -> None:
    server = serve(Script(auth="key"))
    page.goto(server.url + "/")
    expect(page.locator("#key")).to_be_visible()
    press(page)
    title(page, "Enter your access key")
    page.locator("#key").fill("kw_wrong")
    press(page)
    title(page, "This key is not known")
    assert server.calls == []
    page.locator("#key").fill("kw_busy")
    press(page)
    title(page, "Server busy")
    expect(page.locator("#detail")).to_have_text("Too many tokens are in use.")
    page.locator("#key").fill("kw_right")
    page.keyboard.press("Enter")
    until(page, "kaiwa.framesReceived > 3")
    assert server.calls[-1].query["token"].startswith("token-")
    assert "kw_right" not in json.dumps(server.calls[-1].query)
    expect(page.locator("#key")).to_be_hidden()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    server.cut()  # each connection needs a token of its own
    until(page, "kaiwa.resumed === 1")
    assert server.calls[-1].query["token"] != server.calls[-2].query["token"]

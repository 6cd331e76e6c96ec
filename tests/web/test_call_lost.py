"""The page when the connection is lost, dies or becomes slow."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from tests.web.conftest import Serve
from tests.web.fake_server import Refusal, Script
from tests.web.talking import FORMATS, eventually, figures, press, state, talk, title, until


@pytest.mark.parametrize("form", FORMATS)
def test_a_dropped_connection_is_taken_up_again(page: Page, serve: Serve, form: str) -> None:
    server = serve(Script())
    first = talk(page, server, f"?format={form}", frames=15)
    before = figures(page)
    server.reachable = False
    server.cut()
    state(page, "resuming")
    title(page, "Connection lost, resuming…")
    eventually(lambda: server.turned_away >= 2, "it tries to come back")
    server.reachable = True
    until(page, "kaiwa.resumed === 1")
    # A lost connection is no jitter. What comes later may come late, on a busy machine.
    assert figures(page)["underruns"] == before["underruns"]
    until(page, f"kaiwa.framesReceived > {before['framesReceived']} + 10")
    again = server.calls[-1]
    after = figures(page)
    assert again.query["resume"] == first.session.replace("session", "resume")
    assert again.resumed
    assert again.ogg.faults == []
    assert after["sessionId"] == before["sessionId"]
    assert after["captions"].startswith(before["captions"])
    assert after["seconds"] > before["seconds"]
    expect(page.locator("#log")).to_contain_text("Connection restored")


def test_a_restart_of_the_server_is_survived(page: Page, serve: Serve) -> None:
    drain = Refusal("drain", "The server restarts.")
    server = serve(Script(end_after=[(20, drain)]))
    page.goto(server.url + "/")
    press(page)
    state(page, "restarting")
    title(page, "The server is restarting…")
    server.reachable = False
    server.forget()
    eventually(lambda: server.turned_away >= 2, "it tries to come back")
    server.script.refusals = [Refusal("starting", "Loading."), Refusal("full", "Full.")]
    server.reachable = True
    state(page, "active", 20)
    until(page, "kaiwa.framesReceived > 30")
    expect(page.locator("#log")).to_contain_text("A new conversation began")
    assert "resume" not in server.calls[-1].query
    assert figures(page)["resumed"] == 0
    assert figures(page)["seconds"] < 5


@pytest.mark.parametrize("refuses", [True, False])
def test_a_crash_of_the_server_is_survived(page: Page, serve: Serve, refuses: bool) -> None:
    """The token of the lost conversation means nothing to the new server, which may say so."""
    server = serve(Script(refuses_unknown=refuses))
    talk(page, server)
    server.reachable = False
    server.cut()
    server.forget()
    state(page, "resuming")
    eventually(lambda: server.turned_away >= 2, "it tries to come back")
    server.reachable = True
    state(page, "active")
    assert figures(page)["resumed"] == 0
    expect(page.locator("#log")).to_contain_text("A new conversation began")
    before = figures(page)["framesReceived"]
    until(page, f"kaiwa.framesReceived > {before} + 10")


def test_trying_again_comes_to_an_end(page: Page, serve: Serve) -> None:
    page.clock.install()
    server = serve(Script(resume_seconds=2))
    talk(page, server)
    server.reachable = False
    server.cut()
    state(page, "resuming")

    def gave_up() -> bool:
        page.clock.fast_forward(2500)
        return bool(figures(page)["state"] == "error")

    eventually(gave_up, "it gives up", 30)
    title(page, "Connection lost")
    server.reachable = True
    press(page)
    until(page, "kaiwa.framesReceived > 3")


def test_a_connection_that_died_without_a_word_is_noticed(page: Page, serve: Serve) -> None:
    page.clock.install()
    server = serve(Script())
    page.add_init_script(
        """const Native = WebSocket;
        globalThis.WebSocket = class extends Native {
            constructor(url) { super(url); globalThis.socket = this; }
        };"""
    )
    talk(page, server)
    page.evaluate("socket.onmessage = null")
    page.clock.fast_forward(20_000)
    until(page, "kaiwa.resumed === 1")
    assert server.calls[-1].resumed


def test_a_late_network_grows_the_buffer_and_it_shrinks_back(page: Page, serve: Serve) -> None:
    page.add_init_script(
        """const Native = WebSocket;
        globalThis.stall = 0; // milliseconds for which messages are held back
        globalThis.stalls = 0; // how often they were
        globalThis.WebSocket = class extends Native {
            set onmessage(handler) {
                let held = [];
                super.onmessage = handler && ((event) => {
                    if (!globalThis.stall) return handler(event);
                    held.push(event);
                    if (held.length > 1) return;
                    setTimeout(() => {
                        held.forEach(handler);
                        held = [];
                        globalThis.stalls++;
                    }, globalThis.stall);
                });
            }
        };"""
    )
    server = serve(Script())
    talk(page, server)
    calm = figures(page)
    page.evaluate("globalThis.stall = 350")
    until(page, "stalls >= 8")
    page.evaluate("globalThis.stall = 0")
    late = figures(page)["framesReceived"]
    until(page, f"kaiwa.framesReceived > {late + 5}")  # the last messages held back are through
    rough = figures(page)
    assert rough["underruns"] > calm["underruns"]
    assert rough["marginMs"] > calm["marginMs"]
    assert rough["marginMs"] <= 240
    assert rough["bufferMs"] < 800
    until(page, f"kaiwa.framesReceived > {rough['framesReceived'] + 100}")
    settled = figures(page)
    assert settled["underruns"] <= rough["underruns"] + 1
    assert settled["bufferMs"] < settled["marginMs"] + 80 + 160
    assert settled["marginMs"] < rough["marginMs"] + 40

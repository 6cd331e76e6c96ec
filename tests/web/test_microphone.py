"""The page and its devices: no microphone, other sample rates, devices that change."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.web.conftest import Launch, Serve
from tests.web.fake_server import Script
from tests.web.talking import eventually, press, talk, title, until


def quiet_page(browser: Browser, url: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(15_000)
    page.goto(url)
    return page


def test_no_microphone(launch: Launch, serve: Serve) -> None:
    server = serve(Script())
    page = quiet_page(launch("--use-fake-ui-for-media-stream"), server.url + "/")
    press(page)
    title(page, "No microphone found")
    assert server.calls == []
    page.close()


def test_permission_refused(launch: Launch, serve: Serve) -> None:
    server = serve(Script())
    browser = launch("--use-fake-device-for-media-stream", "--deny-permission-prompts")
    page = quiet_page(browser, server.url + "/")
    press(page)
    title(page, "The microphone is blocked")
    expect(page.locator("#detail")).to_contain_text("Allow it for this page")
    assert page.locator("#status").get_attribute("role") == "alert"
    page.close()


def test_insecure_page(launch: Launch, serve: Serve) -> None:
    server = serve(Script())
    browser = launch("--host-resolver-rules=MAP kaiwa.example 127.0.0.1")
    page = quiet_page(browser, f"http://kaiwa.example:{server.port}/")
    title(page, "This page cannot use the microphone")
    expect(page.locator("#detail")).to_contain_text(f"http://localhost:{server.port}/")
    expect(page.locator("#detail")).to_contain_text("https://")
    expect(page.locator("#call")).to_be_disabled()
    page.close()


def test_a_microphone_that_is_pulled_out_is_replaced(page: Page, serve: Serve) -> None:
    page.add_init_script(
        """const get = navigator.mediaDevices.getUserMedia;
        globalThis.streams = [];
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            const stream = await get.call(navigator.mediaDevices, wanted);
            streams.push(stream);
            return stream;
        };"""
    )
    call = talk(page, serve(Script()))
    page.evaluate(
        """const [track] = streams[0].getAudioTracks();
        track.stop();
        track.dispatchEvent(new Event("ended"));"""
    )
    expect(page.locator("#log")).to_contain_text("The microphone was disconnected")
    until(page, "streams.length === 2")
    before = len(call.pcm)
    eventually(lambda: len(call.pcm) > before + 20)
    assert np.abs(np.concatenate(call.pcm[-10:])).max() > 0.05


# A browser that connects a microphone only to a context with one sample rate, as Firefox does.
PARTICULAR = """
globalThis.streams = [];
globalThis.contexts = [];
globalThis.onlyRate = %s;
const get = navigator.mediaDevices.getUserMedia;
navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await get.call(navigator.mediaDevices, wanted);
    streams.push(stream);
    const settings = { sampleRate: onlyRate };
    for (const track of stream.getAudioTracks()) track.getSettings = () => settings;
    return stream;
};
const Original = AudioContext;
globalThis.AudioContext = class extends Original {
    constructor(options) {
        super(options);
        contexts.push(this);
    }
    createMediaStreamSource(stream) {
        if (this.sampleRate !== onlyRate) throw new DOMException("", "NotSupportedError");
        return super.createMediaStreamSource(stream);
    }
};
"""
LIVE = "streams.flatMap((s) => s.getTracks()).filter((t) => t.readyState === 'live').length"
OPEN = "contexts.filter((c) => c.state !== 'closed').length"


@pytest.mark.parametrize("rate", ["new AudioContext().sampleRate", "16000"])
def test_a_browser_that_refuses_the_sample_rate(rate: str, page: Page, serve: Serve) -> None:
    page.add_init_script(PARTICULAR % rate)
    call = talk(page, serve(Script()))
    assert np.abs(np.concatenate(call.pcm[-10:])).max() > 0.05
    assert page.evaluate(OPEN) == 1


def test_another_microphone_may_need_another_sample_rate(page: Page, serve: Serve) -> None:
    page.add_init_script(PARTICULAR % "48000")
    call = talk(page, serve(Script()))
    page.evaluate(
        """onlyRate = 16000;
        const [track] = streams[0].getAudioTracks();
        track.stop();
        track.dispatchEvent(new Event("ended"));"""
    )
    until(page, "streams.length === 2")
    before = len(call.pcm)
    eventually(lambda: len(call.pcm) > before + 20)
    assert np.abs(np.concatenate(call.pcm[-10:])).max() > 0.05
    got = page.evaluate("kaiwa.framesReceived")
    until(page, f"kaiwa.framesReceived > {got} + 10")
    assert (page.evaluate(LIVE), page.evaluate(OPEN)) == (1, 1)


def test_a_microphone_that_no_context_takes(page: Page, serve: Serve) -> None:
    page.add_init_script(PARTICULAR % "1")
    page.goto(serve(Script()).url + "/")
    press(page)
    title(page, "This browser does not connect the microphone")
    assert "undefined" not in page.locator("body").inner_text()
    until(page, f"{LIVE} === 0 && {OPEN} === 0")


@pytest.mark.parametrize("error", ["undefined", "new Error()", "{}", "new DOMException()"])
def test_errors_without_words(error: str, page: Page, serve: Serve) -> None:
    page.add_init_script(f"navigator.mediaDevices.getUserMedia = () => Promise.reject({error});")
    page.goto(serve(Script()).url + "/")
    press(page)
    title(page, "The microphone did not start")
    assert "undefined" not in page.locator("body").inner_text()


def test_a_device_that_stops_the_sound(page: Page, serve: Serve) -> None:
    """A phone call suspends the audio, and only a tap brings it back."""
    page.add_init_script(
        PARTICULAR % "48000"
        + """
globalThis.allowed = true;
const resume = Original.prototype.resume;
Original.prototype.resume = function () {
    return allowed ? resume.call(this) : Promise.reject(new DOMException("", "NotAllowedError"));
};
"""
    )
    call = talk(page, serve(Script()))
    page.evaluate("allowed = false; contexts.at(-1).suspend()")
    expect(page.locator("#log")).to_contain_text("tap the page to go on")
    page.evaluate("document.addEventListener('pointerdown', () => { allowed = true; }, true)")
    page.evaluate("window.addEventListener('pointerdown', () => { allowed = true; }, true)")
    page.mouse.click(5, 5)
    expect(page.locator("#log")).to_contain_text("The sound is back")
    before = len(call.pcm)
    eventually(lambda: len(call.pcm) > before + 10)
    assert np.abs(np.concatenate(call.pcm[-5:])).max() > 0.05

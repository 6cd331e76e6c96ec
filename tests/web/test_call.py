"""The caller's page in a browser, against a server that imitates the contract."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.web.conftest import Launch, Serve
from tests.web.fake_server import Call, FakeServer, Refusal, Script

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


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rate", [0, 44_100, 48_000])
def test_a_call_goes_both_ways(page: Page, serve: Serve, form: str, rate: int) -> None:
    server = serve(Script())
    query = f"?format={form}" + (f"&rate={rate}" if rate else "")
    call = talk(page, server, query, frames=50)
    seen = figures(page)
    page.locator("#end").click()
    state(page, "ended")
    assert seen["format"] == form
    assert seen["state"] == "active"
    assert seen["framesSent"] >= 50
    assert seen["peakOutputRms"] > 0.1
    assert seen["unsent"] == 0
    assert seen["sessionId"] == call.session
    assert 0 < seen["rttMs"] < 2000
    assert 0 <= seen["bufferMs"] < 500
    assert call.query["client"] == "kaiwa"
    assert call.query["resumable"] == "1"
    assert call.query.get("format", "opus") == form
    assert call.pings >= 1
    eventually(lambda: call.over)
    # The tone of the microphone rises by a third each tenth of a second, and was not cut.
    tones = rises(call.audio[RATE:])
    steps = [b / a for a, b in itertools.pairwise(tones)]
    assert len(steps) > 20
    assert sum(1.05 < step < 1.25 for step in steps) > 0.8 * len(steps)
    assert np.sqrt(np.mean(call.audio[RATE:] ** 2)) > 0.05


def test_sent_pages_are_valid_ogg_opus(page: Page, serve: Serve) -> None:
    server = serve(Script())
    call = talk(page, server, frames=30)
    assert call.ogg.faults == []
    assert call.ogg.packets >= 30
    assert call.ogg.pre_skip >= 0
    # What was sent is what was decoded: 40 ms for each packet of 1920 samples at 48 kHz.
    assert call.ogg.granule * RATE / 48_000 == pytest.approx(len(call.audio), abs=2 * 1920)


def test_frames_come_at_the_pace_of_time(page: Page, serve: Serve) -> None:
    server = serve(Script())
    talk(page, server, frames=10)
    before, began = figures(page)["framesSent"], time.monotonic()
    until(page, f"kaiwa.framesSent >= {before + 50}")
    sent = figures(page)["framesSent"] - before
    assert sent / (time.monotonic() - began) == pytest.approx(12.5, rel=0.1)


@pytest.mark.parametrize(
    ("missing", "form"),
    [("AudioEncoder", "pcm"), ("AudioDecoder", "pcm"), ("nothing", "opus")],
)
def test_the_format_is_what_the_browser_can(
    page: Page, serve: Serve, missing: str, form: str
) -> None:
    page.add_init_script(f"delete globalThis[{json.dumps(missing)}]")
    call = talk(page, serve(Script()))
    assert figures(page)["format"] == form
    assert call.query.get("format", "opus") == form


def test_an_encoder_that_only_takes_48_khz(page: Page, serve: Serve) -> None:
    page.add_init_script(
        """const ask = AudioEncoder.isConfigSupported;
        AudioEncoder.isConfigSupported = async (config) =>
            config.sampleRate === 48000 && config.opus.frameDuration === 20000
                ? ask.call(AudioEncoder, config) : { supported: false, config };"""
    )
    call = talk(page, serve(Script()), frames=30)
    assert figures(page)["format"] == "opus"
    assert call.ogg.faults == []
    assert call.ogg.packets >= 60
    steps = rises(call.audio[RATE // 2 :])
    assert max(steps) > 2 * min(steps)


def test_opus_that_fails_in_a_call_gives_way_to_pcm(page: Page, serve: Serve) -> None:
    page.add_init_script(
        """let count = 0;
        const encode = AudioEncoder.prototype.encode;
        AudioEncoder.prototype.encode = function (data) {
            if (++count === 10)
                this.configure({ codec: "none", sampleRate: 1, numberOfChannels: 1 });
            else encode.call(this, data);
        };"""
    )
    server = serve(Script())
    page.goto(server.url + "/")
    press(page)
    until(page, "kaiwa.format === 'pcm' && kaiwa.state === 'active'")
    assert len(server.calls) == 2
    assert server.calls[1].resumed
    assert server.calls[1].query["format"] == "pcm"


def test_words_appear_as_they_come(page: Page, serve: Serve) -> None:
    server = serve(Script(words_every=1))
    talk(page, server, frames=40)
    said = figures(page)["captions"]
    assert said.startswith(" Good evening, it is nice to hear your voice.")
    assert server.script.text.startswith(said[:100])
    shown = page.locator("#log .utterance p").all_inner_texts()
    assert "".join(shown).startswith("Good evening, it is nice")
    spoken = page.locator("#spoken")
    assert spoken.get_attribute("aria-live") == "polite"
    expect(spoken).to_contain_text("Good evening")


def test_what_is_kept_of_the_words_is_bounded(page: Page, serve: Serve) -> None:
    server = serve(Script(words_every=1, text=" " + "x" * 4 + " " + "word" * 1 + " " + "y" * 900))
    talk(page, server, frames=60)
    assert len(figures(page)["captions"]) <= 8192
    assert len(page.locator("#log").inner_text()) < 12_000
    log = page.locator("#log")
    rest = log.evaluate("(e) => e.scrollHeight - e.scrollTop - e.clientHeight")
    assert rest < 40
    log.evaluate("(e) => (e.scrollTop = 0)")
    expect(page.locator("#latest")).to_be_visible()
    page.locator("#latest").click()
    expect(page.locator("#latest")).to_be_hidden()


def test_mute_sends_silence(page: Page, serve: Serve) -> None:
    server = serve(Script())
    call = talk(page, server, "?format=pcm")
    page.keyboard.press("m")
    expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    title(page, "Muted")
    eventually(lambda: np.abs(call.pcm[-1]).max() == 0, "what was on its way has arrived")
    before = len(call.pcm)
    eventually(lambda: len(call.pcm) > before + 8)
    assert np.abs(np.concatenate(call.pcm[before:])).max() == 0
    page.keyboard.press("m")
    before = len(call.pcm)
    eventually(lambda: len(call.pcm) > before + 12)
    assert np.abs(np.concatenate(call.pcm[before:])).max() > 0.05


def test_a_call_can_be_held_with_the_keyboard_alone(page: Page, serve: Serve) -> None:
    page.goto(serve(Script()).url + "/")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "call"
    page.keyboard.press("Enter")
    until(page, "kaiwa.framesReceived > 3")
    assert page.evaluate("document.activeElement.id") in ("mute", "end")
    page.locator("#end").focus()
    page.keyboard.press("Space")
    state(page, "ended")
    assert page.evaluate("document.activeElement.id") == "call"
    expect(page.locator("#call-label")).to_have_text("Call again")
    page.keyboard.press("Enter")
    until(page, "kaiwa.framesReceived > 3")


def test_sampling_is_sent_and_remembered(page: Page, serve: Serve) -> None:
    server = serve(Script())
    page.goto(server.url + "/")
    page.locator("#settings summary").click()
    expect(page.locator("output[for=audio_topk]")).to_have_text("250")
    page.locator("#text_temperature").fill("0.5")
    page.locator("#seed").fill("42")
    page.reload()
    page.locator("#settings summary").click()
    expect(page.locator("output[for=text_temperature]")).to_have_text("0.50")
    press(page)
    until(page, "kaiwa.framesReceived > 3")
    query = server.calls[-1].query
    assert (query["text_temperature"], query["seed"]) == ("0.5", "42")
    assert "audio_temperature" not in query
    page.locator("#end").click()
    page.locator("#defaults").click()
    expect(page.locator("output[for=text_temperature]")).to_have_text("0.70")
    press(page)
    until(page, "kaiwa.framesReceived > 3")
    assert not {"seed", "text_temperature"} & set(server.calls[-1].query)


def test_random_weights_are_admitted(page: Page, serve: Serve) -> None:
    server = serve(Script(synthetic=True))
    page.goto(server.url + "/")
    expect(page.locator("#synthetic")).to_be_visible()
    server.script.synthetic = False
    page.reload()
    expect(page.locator("#server")).to_contain_text("synth:tiny")
    expect(page.locator("#synthetic")).to_be_hidden()
    expect(page.locator("#demo")).to_be_hidden()


def test_the_demo_model_says_what_it_can_do(page: Page, serve: Serve) -> None:
    server = serve(Script(synthetic=False, model="demo"))
    page.goto(server.url + "/")
    expect(page.locator("#demo")).to_contain_text("three plus four")
    expect(page.locator("#synthetic")).to_be_hidden()


# ---- waiting, being refused, ending ----


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


# ---- keys ----


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


# ---- lost connections ----


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


# ---- no microphone ----


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


# ---- how it looks ----


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

"""The page in a call: audio both ways, words, what its controls do."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from tests.web.conftest import Serve
from tests.web.fake_server import Script
from tests.web.talking import (
    FORMATS,
    RATE,
    eventually,
    figures,
    press,
    rises,
    state,
    talk,
    title,
    until,
)


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

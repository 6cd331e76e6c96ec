"""What is said to the demo model comes back on every way there is: file, engine, websocket, browser
and `kaiwa chat`, each without naming a model where that is allowed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.demo.call import Asked
from tests.server.live import program, wait_until
from tests.server.wire import AUDIO, FRAME, TEXT, call
from training.clips import RATE
from training.listener import Listener

import kaiwa
from kaiwa import demo
from kaiwa.cli import main
from kaiwa.client import opus


def said(asked: Asked, pieces: list[tuple[float, str]], audio: Any, listener: Listener) -> None:
    """The answer, and nothing before it but the greeting, as text and as sound."""
    words = [(t, piece.strip()) for t, piece in pieces if piece.strip()]
    assert [word for _, word in words] == ["hello", *asked.words]
    assert words[1][0] > asked.end
    assert listener.words(audio[int(asked.end * RATE) :]) == asked.words


@pytest.fixture
def recording(asked: Asked, tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, asked.audio, RATE)
    return path


def test_a_file(
    asked: Asked,
    recording: Path,
    listener: Listener,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KAIWA_MODEL", raising=False)
    out, text = tmp_path / "out.wav", tmp_path / "out.jsonl"
    assert main(["run", str(recording), str(out), "--text", str(text)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == demo.HINT
    assert "--model kyutai/moshika-candle-q8" in told[0]
    pieces = [(row["t"], row["text"]) for row in map(json.loads, text.read_text().splitlines())]
    audio, rate = soundfile.read(out, dtype="float32")
    assert (rate, len(audio)) == (RATE, len(asked.audio))
    said(asked, pieces, audio, listener)


def test_the_engine(asked: Asked, listener: Listener) -> None:
    with kaiwa.Engine("demo", slots=2) as engine, engine.session(seed=0) as session:
        session.send(asked.audio)
        session.finish()
        events = list(session)
    pieces = [(e.t, e.text) for e in events if isinstance(e, kaiwa.TextEvent)]
    audio = [e.pcm for e in events if isinstance(e, kaiwa.AudioEvent)]
    said(asked, pieces, np.concatenate(audio), listener)


def test_a_websocket_of_a_server_without_a_model_named(asked: Asked, listener: Listener) -> None:
    async def converse(url: str) -> tuple[list[tuple[float, str]], Any]:
        writer, reader = opus.writer(), opus.reader()
        pieces: list[tuple[float, str]] = []
        audio: list[Any] = []
        async with call(url) as chat:
            frames = len(asked.audio) // FRAME
            sending = asyncio.create_task(
                chat.say(
                    *[writer.write(f) for f in np.split(asked.audio[: frames * FRAME], frames)]
                )
            )
            while len(audio) < frames:
                message = await chat.message()
                if message[0] == AUDIO:
                    audio.append(reader.read(message[1:]))
                elif message[0] == TEXT:
                    pieces.append((len(audio) * 0.08, message[1:].decode()))
            await sending
        return pieces, np.concatenate(audio)

    with program() as server:
        (model,) = server.ask("/v1/models").json["data"]
        assert model["id"] == "demo"
        pieces, audio = asyncio.run(converse(server.url(pace="none", seed=1)))
    said(asked, pieces, audio, listener)


@pytest.mark.parametrize("connection", ["websocket", "webrtc"])
def test_a_browser(asked: Asked, recording: Path, connection: str) -> None:
    """The microphone hears the caller; the page shows what the model says."""
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright
    from tests.web.conftest import ARTIFACTS, BASE, chromium_path
    from tests.web.talking import press, state, until

    with program() as server, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium_path(),
            args=[
                *BASE,
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
            ],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.click("#settings summary")
        page.select_option("#connection", connection)
        press(page)
        state(page, "active")
        (row,) = server.ask("/v1/sessions").json["sessions"]
        assert row["protocol"] == {"websocket": "kyutai"}.get(connection, connection)
        wanted = json.dumps(" ".join(asked.words))
        until(page, f"kaiwa.captions.includes({wanted})", 40)
        assert page.evaluate("kaiwa.peakOutputRms") > 0.02
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"demo-call-{connection}.png")
        page.click("#end")
        state(page, "ended")
        wait_until(lambda: not server.ask("/v1/sessions").json["sessions"], "the slot is free", 20)
        browser.close()


def test_the_example_of_a_page_by_webrtc(asked: Asked, recording: Path) -> None:
    """The lines of docs/clients.md, in a page of the server."""
    pytest.importorskip("aiortc")
    from playwright.sync_api import sync_playwright
    from tests.web.conftest import BASE, chromium_path
    from tests.web.talking import until

    page_of = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    (example,) = re.findall(r"^```js\n(.*?)^```", page_of, re.MULTILINE | re.DOTALL)
    with program("--seed", 1) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium_path(),
            args=[
                *BASE,
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
            ],
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        source = example.replace("8998", str(server.port)).replace(
            "console.log(", "(window.events ??= []).push("
        )
        page.evaluate(f"(async () => {{ {source} window.call = call; }})()")
        said = (
            "(window.events ?? []).filter((e) => e.type.endsWith('transcript.delta'))"
            ".map((e) => e.delta).join('')"
        )
        until(page, f"({said}).includes({json.dumps(' '.join(asked.words))})", 40)
        energy = page.evaluate(
            "(async () => [...(await call.getStats()).values()]"
            ".find((row) => row.type === 'inbound-rtp').totalAudioEnergy)()"
        )
        assert energy > 0.001
        browser.close()


async def test_webrtc(asked: Asked, listener: Listener) -> None:
    """Text by the data channel, sound by the track, at the pace of time. A machine with too much to
    do loses frames of a call, so that there are three."""
    pytest.importorskip("aiortc")
    from tests.server.webrtc import calling

    got: list[tuple[list[str], list[str]]] = []
    with program("--seed", 1) as server:
        while (asked.words, asked.words) not in got and len(got) < 3:
            async with calling(server, asked.audio) as caller:
                await caller.until(
                    lambda c=caller: len(c.heard) >= len(asked.audio) + RATE, "the answer", 60
                )
                text = caller.said.split()
                heard = listener.words(caller.heard[int(asked.end * RATE) :])
                got.append((text[1:] if text[:1] == ["hello"] else text, heard))
    assert (asked.words, asked.words) in got, got


def test_chat_without_a_server(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`kaiwa chat` and nothing else: a model is loaded for the call."""
    from tests.cli import test_chat

    import kaiwa.cli.chat

    class Caller(test_chat.Card):
        """A microphone that hears the caller."""

        def InputStream(self, **settings: Any) -> Any:  # noqa: N802
            def turn(block: Any, number: int) -> None:
                at = number * len(block)
                piece = asked.audio[at : at + len(block)]
                block[:, 0] = 0
                block[: len(piece), 0] = piece
                if at < len(asked.audio) <= at + len(block):
                    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
                settings["callback"](block, len(block), None, None)

            return self._stream(settings, turn)

    monkeypatch.setattr(kaiwa.cli.chat, "_runs_here", lambda: False)
    monkeypatch.delenv("KAIWA_MODEL", raising=False)
    monkeypatch.delenv("KAIWA_KEY", raising=False)
    monkeypatch.setitem(sys.modules, "sounddevice", Caller())
    assert main(["chat", "--seed", "1"]) == 0
    told = capfd.readouterr()
    assert demo.HINT in told.err
    assert " ".join(told.out.split()) == " ".join(["hello", *asked.words])


def test_chat_takes_one_of_url_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "127.0.0.1:1", "--model", "demo"]) == 2
    assert "one of the two" in capsys.readouterr().err


def test_a_wheel_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(kaiwa.errors.CheckpointNotFoundError, match="no demo model"):
        kaiwa.Moshi.from_pretrained("demo")

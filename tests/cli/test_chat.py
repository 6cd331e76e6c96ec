"""`kaiwa chat` with a sound card of its own making."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.client import standin
from tests.client.server import serving_in_a_thread

from kaiwa.cli.captions import WIDTH, Captions, meter


class PortAudioError(Exception):
    """As sounddevice has it."""


class Card:
    """A fake sounddevice: the microphone hums, the loudspeaker is recorded.

    Attributes:
        rates: rates that the devices can do; the last is their own.
        devices: kinds that exist.
    """

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.rates = [24_000, 48_000]
        self.devices = ["input", "output"]
        self.played: list[NDArray[np.float32]] = []
        self.opened: list[dict[str, Any]] = []
        self.closed = 0
        self.busy = False
        self.searched = 0
        self._unplugged = threading.Event()

    def unplug(self) -> None:
        """The devices are pulled out, and others are there: streams that are open fall silent, and
        cannot be closed in order."""
        self._unplugged.set()
        self._unplugged = threading.Event()

    def _initialize(self) -> None:
        self.searched += 1

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if kind is None:
            return "  0 A microphone\n  1 A loudspeaker"
        if kind not in self.devices or device == 99:
            raise PortAudioError(f"Error querying device {device}")
        return {"default_samplerate": float(self.rates[-1])}

    def check_input_settings(self, *, samplerate: int, **_: Any) -> None:
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate")

    check_output_settings = check_input_settings

    def InputStream(self, **settings: Any) -> Any:  # noqa: N802
        def turn(block: NDArray[np.float32], number: int) -> None:
            at = np.arange(len(block)) + number * len(block)
            block[:, 0] = 0.5 * np.sin(at * 300.0 / settings["samplerate"] * 2 * np.pi)
            settings["callback"](block, len(block), None, None)

        return self._stream(settings, turn)

    def OutputStream(self, **settings: Any) -> Any:  # noqa: N802
        def turn(block: NDArray[np.float32], number: int) -> None:
            settings["callback"](block, len(block), None, None)
            self.played.append(block[:, 0].copy())

        return self._stream(settings, turn)

    def _stream(self, settings: dict[str, Any], turn: Callable[..., None]) -> Any:
        """A thread that calls `turn` with a block at the pace of the sound."""
        if self.busy:
            raise PortAudioError("Device unavailable")
        self.opened.append(settings)
        over, unplugged = threading.Event(), self._unplugged

        def loop() -> None:
            start, number = time.perf_counter(), 0
            seconds = settings["blocksize"] / settings["samplerate"]
            while not over.is_set():
                if not unplugged.is_set():
                    turn(np.zeros((settings["blocksize"], 1), np.float32), number)
                number += 1
                over.wait(max(0.0, start + number * seconds - time.perf_counter()))

        thread = threading.Thread(target=loop)

        def close() -> None:
            over.set()
            thread.join()
            self.closed += 1
            if unplugged.is_set():
                raise PortAudioError("Unanticipated host error")

        return SimpleNamespace(start=thread.start, close=close)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    standin.install(monkeypatch)
    monkeypatch.delenv("KAIWA_KEY", raising=False)
    fake = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    yield fake
    assert fake.closed == len(fake.opened)


def level(card: Card) -> float:
    """Loudest sample that was played."""
    return max((float(np.abs(block).max()) for block in card.played), default=0.0)


@pytest.mark.parametrize("audio_format", ["opus", "pcm"])
@pytest.mark.parametrize("rates", [[24_000], [48_000]])
def test_a_call(run: Callable[..., Any], card: Card, audio_format: str, rates: list[int]) -> None:
    card.rates = rates
    script = {"say": {0: " Good", 1: " \x1b[2Jday"}, "end": 6, "close": (1000, "expired")}
    with serving_in_a_thread(**script) as server:
        outcome = run("chat", server.url, "--format", audio_format, "--seed", 3)
        assert server.queries[0]["seed"] == ["3"]
    assert outcome.code == 0, outcome.err
    assert outcome.out == " Good [2Jday\n"
    assert "ended by the server (expired)" in outcome.err
    assert level(card) > 0.2
    assert {settings["samplerate"] for settings in card.opened} == set(rates)


def test_ctrl_c_ends_the_call(run: Callable[..., Any], card: Card) -> None:
    with serving_in_a_thread() as server:

        def interrupt() -> None:
            while level(card) == 0:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        outcome = run("chat", server.url, "--format", "pcm")
        thread.join()
    assert outcome.code == 0, outcome.err
    assert "ended by Ctrl-C" in outcome.err
    assert server.codes == [1000]


def test_keys(run: Callable[..., Any], card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, other = os.openpty()
    with serving_in_a_thread() as server, os.fdopen(other) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        def press() -> None:
            while level(card) == 0:
                time.sleep(0.01)
            os.write(terminal, b"m")
            while np.concatenate(card.played[-10:]).any():
                time.sleep(0.01)
            os.write(terminal, b"xq")

        thread = threading.Thread(target=press)
        thread.start()
        outcome = run("chat", server.url, "--format", "pcm")
        thread.join()
    os.close(terminal)
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("ended after")
    frames = [np.frombuffer(message[1:], "<i2") for message in server.received[0]]
    assert frames[0].any()
    assert not frames[-1].any()


def test_nobody_there(run: Callable[..., Any], card: Card) -> None:
    outcome = run("chat", "127.0.0.1:1")
    assert outcome.code == 1
    assert "kaiwa serve" in outcome.error
    assert card.opened == []


def test_the_server_fails(run: Callable[..., Any], card: Card) -> None:
    with serving_in_a_thread(end=1, close=(1011, "error"), error="It broke.") as server:
        outcome = run("chat", server.url, "--format", "pcm")
    assert outcome.code == 1
    assert "It broke" in outcome.error


def test_devices_are_listed(run: Callable[..., Any], card: Card) -> None:
    outcome = run("chat", "--devices")
    assert outcome.code == 0
    assert "A loudspeaker" in outcome.out


@pytest.mark.parametrize(
    ("devices", "arguments", "says"),
    [
        (["output"], (), "no microphone"),
        (["input"], (), "no loudspeaker"),
        (["input", "output"], ("--microphone", "99"), "no microphone 99"),
    ],
)
def test_no_device(
    run: Callable[..., Any], card: Card, devices: list[str], arguments: Any, says: str
) -> None:
    card.devices = devices
    outcome = run("chat", *arguments)
    assert outcome.code == 1
    assert says in outcome.error


def test_a_device_that_cannot_do_any_rate(run: Callable[..., Any], card: Card) -> None:
    card.check_input_settings = lambda **_: (_ for _ in ()).throw(PortAudioError("mono"))  # type: ignore[method-assign]
    outcome = run("chat")
    assert outcome.code == 1
    assert "takes no mono audio" in outcome.error


def test_a_device_that_is_taken(run: Callable[..., Any], card: Card) -> None:
    card.busy = True
    with serving_in_a_thread() as server:
        outcome = run("chat", server.url)
    assert outcome.code == 1
    assert "close other programs" in outcome.error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("no module"), "pip install 'kaiwa[chat]'"),
        (OSError("PortAudio library not found"), "libportaudio2"),
    ],
)
def test_nothing_installed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    genuine = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise error
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    outcome = run("chat")
    assert outcome.code == 1
    assert says in outcome.error


def test_meters() -> None:
    assert meter(-60) == "·" * WIDTH
    assert meter(0) == "█" * WIDTH
    assert meter(-30) == "█" * (WIDTH // 2) + "·" * (WIDTH // 2)
    assert meter(5) == "█" * WIDTH


def test_captions_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Captions(terminal=True) as captions:
        for _ in range(40):
            captions.say(" [bold]word")
            captions.levels(-20.0, -40.0)
    out = capfd.readouterr().out
    assert out.count("[bold]word") >= 40
    assert "\x1b[2J" not in out


@pytest.mark.parametrize("rates", [[24_000], [48_000]])
def test_a_headset_that_is_pulled_out(
    run: Callable[..., Any], card: Card, rates: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call goes on with what there is then, at its rate."""
    monkeypatch.setattr("kaiwa.client.sound.GONE", 0.3)
    with serving_in_a_thread() as server:

        def pull() -> None:
            wait_for(lambda: level(card) > 0)
            card.rates = rates
            card.unplug()
            wait_for(lambda: len(card.opened) >= 4)
            card.played.clear()
            wait_for(lambda: level(card) > 0.1)
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=pull)
        thread.start()
        outcome = run("chat", server.url, "--microphone", 3)
        thread.join()
    assert outcome.code == 0, outcome.err
    assert card.opened[-1]["samplerate"] == rates[0]
    assert card.searched >= 1


def test_no_other_device(
    run: Callable[..., Any], card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaiwa.client.sound.GONE", 0.3)
    monkeypatch.setattr("kaiwa.cli.chat.WITHOUT_DEVICES", 0.1)
    with serving_in_a_thread() as server:

        def pull() -> None:
            wait_for(lambda: level(card) > 0)
            card.devices = []
            card.unplug()

        thread = threading.Thread(target=pull)
        thread.start()
        outcome = run("chat", server.url)
        thread.join()
    assert outcome.code == 1
    assert "was pulled out, and there is no other" in outcome.err.splitlines()[-1]


def wait_for(met: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not met():
        assert time.monotonic() < until
        time.sleep(0.02)

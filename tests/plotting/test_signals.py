"""What is kept of a signal: it is the signal's, however the pieces are cut, and never grows."""

from __future__ import annotations

import numpy as np
import pytest

from kaiwa.errors import InputError
from kaiwa.plotting import envelope, sound, speech
from kaiwa.plotting.envelope import Envelope
from kaiwa.plotting.spectrogram import FLOOR, Spectrogram

RATE = 8000


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("most", [4096, 64])
def test_an_outline_is_that_of_the_samples(most: int) -> None:
    pcm = noise(10.37)
    pieces = Envelope(RATE, most)
    for start in range(0, len(pcm), 777):
        pieces.add(pcm[start : start + 777])
    found = pieces.outline()
    size = round(found.seconds * RATE)
    assert size == (80 if most == 4096 else 80 * 16)
    assert len(found.low) == -(-len(pcm) // size) <= most + 1
    for index in (0, 3, len(found.low) - 1):
        part = pcm[index * size : (index + 1) * size]
        assert found.starts[index] == pytest.approx(index * size / RATE)
        assert (found.low[index], found.high[index]) == (part.min(), part.max())
        assert found.rms[index] == pytest.approx(np.sqrt(np.mean(part**2)), rel=1e-4)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 384_000])
@pytest.mark.parametrize("most", [2048, 8])
def test_a_sine_is_seen_at_its_frequency_and_level(rate: int, most: int) -> None:
    t = np.arange(rate) / rate
    pcm = (0.1 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
    pieces = Spectrogram(rate, most)
    for start in range(0, len(pcm), 5000):
        pieces.add(pcm[start : start + 5000])
    image = pieces.image()
    rows, columns = image.decibels.shape
    assert columns <= most
    assert columns * image.seconds == pytest.approx(1.0, abs=image.seconds)
    assert image.hertz <= min(12_000, rate / 2)
    middle = image.decibels[:, columns // 2]
    assert np.argmax(middle) * image.hertz / (rows - 1) == pytest.approx(1000, abs=35)
    assert middle.max() == pytest.approx(-20, abs=1.5)
    assert middle[-1] < -60


def test_memory_does_not_grow_with_the_signal() -> None:
    listener = sound.Listener(RATE)
    block = noise(60)
    for _ in range(30):
        listener.add(block)
    found = listener.sound()
    assert found.seconds == 1800
    assert envelope.MOST / 2 <= len(found.outline.low) <= envelope.MOST
    assert found.image.decibels.shape[1] <= 2048
    assert found.image.seconds * found.image.decibels.shape[1] == pytest.approx(1800, rel=0.01)
    assert np.isfinite(found.image.decibels).all()
    # Every column has its windows: noise is nowhere silent.
    assert found.image.decibels.mean(axis=0).min() > -60


def test_silence_and_one_sample() -> None:
    silent = sound.of(np.zeros(RATE), RATE)
    assert set(np.unique(silent.image.decibels)) == {np.float32(FLOOR)}
    assert speech.intervals(silent.outline, 1.0) == []
    one = sound.of(np.array([0.5]), RATE)
    assert (one.samples, len(one.outline.low)) == (1, 1)
    assert one.image.decibels.shape[1] == 1


def test_speech_is_what_is_loud_with_its_short_pauses() -> None:
    pcm = 0.001 * noise(10)
    for start, end in ((1.0, 2.0), (2.2, 3.0), (6.0, 7.5)):
        pcm[round(start * RATE) : round(end * RATE)] = noise(end - start)
    pcm[round(9 * RATE)] = 1.0  # a click
    found = speech.intervals(sound.of(pcm, RATE).outline, 10.0)
    assert np.array(found) == pytest.approx(np.array([(1.0, 3.0), (6.0, 7.5)]), abs=0.011)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros(0), RATE, "at least one"),
        (np.zeros((2, 9)), RATE, "pick one row"),
        (np.array([0.0, np.nan]), RATE, "sample 1 is not finite"),
        (np.zeros(9), 0, "samples per second"),
    ],
)
def test_what_is_no_sound(samples: np.ndarray, rate: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        sound.of(samples, rate)

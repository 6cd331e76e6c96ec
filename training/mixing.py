"""Scenes for training: words placed in time, with the microphone and room they are heard by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.clips import RATE, WORDS, Clips

Array = NDArray[np.float32]

FRAME = 1920
#: States of a word that the semantic codebook is taught: its first, second and last third.
PARTS = 3
#: How fast, and with it how high, callers are played.
SPEEDS = (0.78, 1.28)
#: Label of silence, after the states of all words.
SILENCE = len(WORDS) * PARTS
#: Frames after its end in which a word is still to be remembered, and the label of no such word.
AFTER = 6
NONE = len(WORDS)


@dataclass
class Placed:
    """A word in a scene, in samples."""

    word: int
    start: int
    end: int


def changed(audio: Array, speed: float) -> Array:
    """Played at another speed: shorter and higher, or longer and lower."""
    at = np.arange(0, len(audio) - 1, speed, dtype=np.float32)
    out: Array = np.interp(at, np.arange(len(audio)), audio).astype(np.float32)
    return out


def place(
    scene: Array,
    at: int,
    clips: Clips,
    index: int,
    speed: float = 1.0,
    gain: float = 1.0,
) -> list[Placed]:
    """Adds a clip to a scene at a sample; gives its words. What lies beyond the end is cut."""
    audio = clips.samples(index)
    if speed != 1.0:
        audio = changed(audio, speed)
    audio = audio[: max(len(scene) - at, 0)]
    scene[at : at + len(audio)] += np.float32(gain) * audio
    return [
        Placed(word, at + int(a / speed), at + int(b / speed))
        for word, (a, b) in zip(clips.words[index], clips.bounds[index], strict=True)
    ]


def labels(words: list[Placed], frames: int) -> NDArray[np.int64]:
    """Label of each frame: the state of the word at the frame's first sample.

    The frame itself is what follows that sample, so that a label is known from what was heard.
    """
    out = np.full(frames, SILENCE, np.int64)
    for word in words:
        first, last = -(-word.start // FRAME), -(-word.end // FRAME)
        for frame in range(max(first, 0), min(last, frames)):
            part = (frame * FRAME - word.start) * PARTS // max(word.end - word.start, 1)
            out[frame] = word.word * PARTS + min(part, PARTS - 1)
    return out


def ended(words: list[Placed], frames: int) -> NDArray[np.int64]:
    """Label of each frame: the word that ended last, if that was not long before the frame's end.

    Only then all of a word has been heard.
    """
    out = np.full(frames, NONE, np.int64)
    for word in words:
        first = max(-(-word.end // FRAME) - 1, 0)
        out[first : first + AFTER] = word.word
    return out


def heard(rng: np.random.Generator, scene: Array) -> Array:
    """The scene through a random microphone: room, tone, band, loudness."""
    out = scene
    if rng.random() < 0.3:  # a room
        length = int(RATE * rng.uniform(0.05, 0.25))
        tail = rng.standard_normal(length) * np.exp(-6 * np.arange(length) / length)
        tail *= rng.uniform(0.05, 0.3) / np.sqrt((tail**2).sum())
        tail[0] = 1.0
        size = 1 << int(len(out) + length).bit_length()
        wet = np.fft.irfft(np.fft.rfft(out, size) * np.fft.rfft(tail, size), size)
        out = wet[: len(out)].astype(np.float32)
    tone, band = rng.random() < 0.5, rng.random() < 0.3
    if tone or band:
        spectrum = np.fft.rfft(out)
        hertz = np.linspace(1, RATE / 2, len(spectrum))
        octave = np.log2(hertz / 1000)
        curve = np.zeros(len(spectrum))
        if tone:  # a tilt and one broad bump
            curve += rng.uniform(-2.5, 2.5) * np.clip(octave, -3, 3)
            curve += rng.uniform(-6, 6) * np.exp(-((octave - rng.uniform(-2, 3)) ** 2))
        if band:  # a telephone, or speech that was sampled at 8, 16 or 22 kHz
            top = (3400, 4000, 5500, 8000, 11000)[int(rng.integers(5))]
            curve -= 60 * np.clip((hertz - top) / (0.1 * top), 0, 1)
            if top == 3400:
                curve -= 30 * np.clip((300 - hertz) / 200, 0, 1)
        out = np.fft.irfft(spectrum * 10 ** (curve / 20), len(out)).astype(np.float32)
    if rng.random() < 0.1:  # too loud
        return np.clip(out * np.float32(10 ** (rng.uniform(3, 10) / 20)), -1, 1)
    return out * np.float32(10 ** (rng.uniform(-28, 4) / 20))


def noisy(rng: np.random.Generator, scene: Array) -> Array:
    """With noise of a random colour added, sometimes none."""
    if rng.random() < 0.3:
        return scene
    spectrum = rng.standard_normal(len(scene) // 2 + 1) + 1j * rng.standard_normal(
        len(scene) // 2 + 1
    )
    frequency = np.linspace(0.01, 1, len(spectrum))
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0, 1), len(scene))
    level = float(np.sqrt((scene**2).mean())) * 10 ** (-rng.uniform(12, 50) / 20)
    noise *= max(level, 10 ** rng.uniform(-5, -3.5)) / max(float(noise.std()), 1e-9)
    out: Array = scene + noise.astype(np.float32)
    return out


def codec_scene(
    rng: np.random.Generator, train: Clips, own: Clips, frames: int
) -> tuple[Array, Array, NDArray[np.int64]]:
    """A crop for the codec: (what the microphone hears, the same without noise, labels)."""
    sound, clean, words = crop(rng, train, own, frames)
    return sound, clean, labels(words, frames)


def crop(
    rng: np.random.Generator, train: Clips, own: Clips, frames: int, share: float = 0.25
) -> tuple[Array, Array, list[Placed]]:
    """Like :func:`codec_scene` with the words themselves; ``share`` is that of the own voice."""
    scene = np.zeros(frames * FRAME, np.float32)
    words: list[Placed] = []
    mine = rng.random() < share
    clips = own if mine else train
    at = int(rng.uniform(-0.4, 1.0) * RATE)
    while at < len(scene):
        index = clips.any(rng)
        speed = 1.0 if mine else float(rng.uniform(*SPEEDS))
        if at < 0:  # a word that began before the crop
            begun = np.zeros(len(scene) - at, np.float32)
            found = place(begun, 0, clips, index, speed)
            scene += begun[-at:]
            found = [Placed(w.word, w.start + at, w.end + at) for w in found]
        else:
            found = place(scene, at, clips, index, speed)
        words += found
        at = found[-1].end + int(max(rng.normal(0.15, 0.2), 0.0) * RATE)
    if rng.random() < 0.05:
        scene[:] = 0
        words = []
    if mine:
        clean = scene * np.float32(10 ** (rng.uniform(-3, 1) / 20))
        return clean, clean, words
    clean = heard(rng, scene)
    return noisy(rng, clean), clean, words

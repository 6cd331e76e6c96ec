"""New speakers out of few: clips taken apart by the WORLD vocoder and put together otherwise.

A synthesiser that is cut out of recordings has one speaker, and there are few of them. What makes
a speaker is changed here, each for itself: the length of the vocal tract (formants), the pitch and
how it moves, the tempo and its unevenness, breath, how marked formants are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyworld
from numpy.typing import NDArray

from training.clips import RATE, Array, Clip

#: Of WORLD's frames, in ms.
PERIOD = 6.0
#: Above this (Hz) formants move by a factor of their own.
KNEE = 1800.0


def speaker(rng: np.random.Generator) -> dict[str, float]:
    """Settings of somebody who does not exist."""
    return {
        "pitch": float(np.exp(rng.uniform(np.log(75), np.log(250)))),  # Hz
        "melody": float(rng.uniform(0.3, 1.7)),
        "low": float(np.exp(rng.uniform(-0.17, 0.19))),
        "high": float(np.exp(rng.uniform(-0.17, 0.17))),
        "tempo": float(np.exp(rng.uniform(-0.22, 0.22))),
        "uneven": float(rng.uniform(0.0, 0.25)),
        "breath": float(np.exp(rng.uniform(np.log(1500), np.log(7000)))),  # Hz
        "marked": float(rng.uniform(0.75, 1.25)),
        "rough": float(rng.uniform(0.0, 0.03)),
    }


def _lengths(frames: int, who: dict[str, float], rng: np.random.Generator) -> NDArray[Any]:
    """Where each new frame is taken from, for a tempo that wavers."""
    knots = np.linspace(0, frames - 1, max(frames // 24, 2))
    pace = np.exp(who["uneven"] * rng.standard_normal(len(knots)))
    pace = np.interp(np.arange(frames), knots, pace) / who["tempo"]
    when = np.concatenate(([0.0], np.cumsum(pace)))  # new time at which each old frame begins
    count = max(int(when[-1]), 2)
    return np.interp(np.arange(count), when[:-1], np.arange(frames))


def _between(rows: NDArray[Any], at: NDArray[Any]) -> NDArray[Any]:
    """Rows at fractional places."""
    low = np.minimum(at.astype(int), len(rows) - 1)
    high = np.minimum(low + 1, len(rows) - 1)
    part = (at - low)[:, None]
    return rows[low] * (1 - part) + rows[high] * part


def _moved(envelope: NDArray[Any], who: dict[str, float]) -> NDArray[Any]:
    """The logarithm of spectral envelopes with its formants moved."""
    bins = envelope.shape[1]
    hertz = np.linspace(0, RATE / 2, bins)
    knee = KNEE * who["low"]
    from_ = np.where(hertz < knee, hertz / who["low"], KNEE + (hertz - knee) / who["high"])
    at = np.clip(from_ / (RATE / 2) * (bins - 1), 0, bins - 1)
    moved = _between(envelope.T, at).T
    width = 2 * int(bins * 900 / RATE) + 1  # a running mean over about 0.9 kHz
    padded = np.pad(moved, ((0, 0), (width // 2 + 1, width // 2)), mode="edge")
    total = padded.cumsum(1)
    smooth = (total[:, width:] - total[:, :-width]) / width
    out: NDArray[Any] = smooth + who["marked"] * (moved - smooth)
    return out


def spoken_by(clip: Clip, who: dict[str, float], rng: np.random.Generator) -> Clip | None:
    """The clip as somebody else says it; ``None`` if nothing can be made of it."""
    wave = clip.audio.astype(np.float64)
    rough, times = pyworld.dio(wave, RATE, f0_floor=55, f0_ceil=500, frame_period=PERIOD)
    pitch = pyworld.stonemask(wave, rough, times, RATE)
    voiced = pitch > 0
    if len(pitch) < 12 or voiced.mean() < 0.1:
        return None
    envelope = np.log(pyworld.cheaptrick(wave, pitch, times, RATE) + 1e-12)
    at = _lengths(len(pitch), who, rng)
    logs = np.log(np.where(voiced, pitch, 1))
    mean = logs[voiced].mean()
    logs = np.log(who["pitch"]) + who["melody"] * (logs - mean)
    logs += who["rough"] * rng.standard_normal(len(logs))
    near = np.minimum(np.round(at).astype(int), len(pitch) - 1)
    new_pitch = np.where(voiced[near], np.exp(logs[near]), 0.0)
    new_pitch = np.where(new_pitch > 0, np.clip(new_pitch, 50, 480), 0)
    new_envelope = np.ascontiguousarray(np.exp(_moved(_between(envelope, at), who)))
    # Noise above a frequency, not the noise that was measured: that takes most of the time.
    hertz = np.linspace(0, RATE / 2, new_envelope.shape[1])
    ramp = 1 / (1 + np.exp((who["breath"] - hertz) / 600))
    new_breath = np.where(new_pitch[:, None] > 0, ramp, 1.0)
    audio = pyworld.synthesize(new_pitch, new_envelope, new_breath, RATE, PERIOD)
    peak = float(np.abs(audio).max())
    if not np.isfinite(peak) or peak < 1e-4:
        return None
    scaled: Array = (audio * (0.6 / peak)).astype(np.float32)
    # Old sample to new: the inverse of where frames are taken from.
    step = RATE * PERIOD / 1000
    places = np.interp(np.array(clip.bounds) / step, at, np.arange(len(at))) * step
    bounds = [(int(a), min(int(b), len(scaled))) for a, b in places]
    bounds[-1] = (bounds[-1][0], len(scaled))
    return Clip(scaled, clip.words, bounds, clip.voice)

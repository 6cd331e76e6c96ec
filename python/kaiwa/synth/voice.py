"""A speech-like signal: pitched syllables with moving formants, breath noise and pauses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Samples between two values of the slow controls (pitch, formants, loudness).
_CONTROL = 240


def voice(seconds: float, *, seed: int = 0, sample_rate: int = 24_000) -> NDArray[np.float32]:
    """Synthetic voice, float32 `[round(seconds * sample_rate)]`, peak 0.5.

    The same arguments give the same signal; seeds differ in pitch, vowels and rhythm.
    """
    total = round(seconds * sample_rate)
    rng = np.random.Generator(np.random.PCG64([seed, 0x766F6963]))
    steps = total // _CONTROL + 2
    pitch, formants, loudness = _controls(steps, rng)
    at = np.arange(total, dtype=np.float64) / _CONTROL
    grid = np.arange(steps, dtype=np.float64)

    frequency = np.interp(at, grid, pitch)
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    out = np.zeros(total)
    harmonics = int(min(4500.0, 0.45 * sample_rate) / pitch.max())
    for harmonic in range(1, harmonics + 1):
        weight = np.full(steps, 0.02)
        for centre, width, gain in formants:
            weight += gain * np.exp(-(((harmonic * pitch - centre) / width) ** 2))
        out += np.interp(at, grid, weight / harmonic**0.5) * np.sin(harmonic * phase)
    breath = rng.standard_normal(total)
    breath[1:] -= 0.7 * breath[:-1]
    noise = np.interp(at, grid, 0.01 + 0.15 * rng.random(steps) ** 8)
    out = (out + noise * breath) * np.interp(at, grid, loudness) + 0.002 * breath
    peak = float(np.abs(out).max()) if total else 1.0
    return (0.5 / peak * out).astype(np.float32)


Formant = tuple[NDArray[np.float64], float, float]


def _controls(
    steps: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], list[Formant], NDArray[np.float64]]:
    """Pitch (Hz), formants (centre, width, gain) and loudness, one value a control step."""
    base = rng.uniform(95, 210)
    drift = np.cumsum(rng.standard_normal(steps)) * 0.004
    pitch = base * np.exp(np.clip(drift - np.linspace(0, drift[-1], steps), -0.25, 0.25))
    syllables = max(2, steps // 18 + 2)
    middle = np.sort(rng.uniform(0, steps, syllables))
    grid = np.arange(steps, dtype=np.float64)
    formants: list[Formant] = []
    for low, high, width, gain in (
        (300, 850, 110, 1.0),
        (900, 2300, 160, 0.6),
        (2400, 3400, 250, 0.3),
    ):
        centres = np.interp(grid, middle, rng.uniform(low, high, syllables))
        formants.append((centres, float(width), gain))
    beat = np.interp(grid, middle, rng.uniform(0, 1, syllables) > 0.2)
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * np.cumsum(rng.uniform(0.02, 0.06, steps)))
    return pitch, formants, 0.03 + beat * swell

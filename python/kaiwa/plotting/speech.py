"""When a side speaks: stretches of time that are loud beside the rest of its signal."""

from __future__ import annotations

import numpy as np

from kaiwa.plotting.envelope import Outline

#: A stretch is speech if it is at most this many dB below the loud ones...
BELOW = 30.0
#: ...and at least so many dB of full scale.
QUIETEST = -55.0
#: The share of stretches that are not loud: what is above that counts as the loud ones.
LOUD = 0.98
#: Pauses of so many seconds belong to what is said.
PAUSE = 0.35
#: What is shorter, in seconds, is a click and no speech.
CLICK = 0.06

Interval = tuple[float, float]


def intervals(outline: Outline, length: float) -> list[Interval]:
    """Beginning and end of everything that is said, in seconds.

    Args:
        outline: of the signal.
        length: of the signal, in seconds.
    """
    decibels = 20 * np.log10(np.maximum(outline.rms, 1e-6))
    if not len(decibels):
        return []
    least = max(float(np.quantile(decibels, LOUD)) - BELOW, QUIETEST)
    on = np.flatnonzero(decibels > least)
    if not len(on):
        return []
    step = outline.seconds
    breaks = np.flatnonzero(np.diff(on) * step > PAUSE + step)
    firsts, lasts = on[np.append(0, breaks + 1)], on[np.append(breaks, len(on) - 1)]
    found = (
        (float(a * step), min(float((b + 1) * step), length))
        for a, b in zip(firsts, lasts, strict=True)
    )
    return [(a, b) for a, b in found if b - a >= CLICK]

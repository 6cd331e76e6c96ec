"""One caller's digits, as audio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from training.clips import RATE, WORDS
from training.conversations import Callers
from training.mixing import FRAME, Array

from training import mixing


@dataclass(frozen=True)
class Asked:
    """A call: audio at 24 kHz, when the caller has ended (s), and the words they said."""

    audio: Array
    end: float
    words: list[str]


def ask(callers: Callers, voice: str, digits: list[int], tail: int = 70) -> Asked:
    """Digits with pauses of a quarter of a second, two seconds after the call began."""
    scene = np.zeros((80 + tail) * FRAME, np.float32)
    at = 2 * RATE
    for digit in digits:
        clip = callers.single[voice][digit][0]
        (placed,) = mixing.place(scene, at, callers.clips, clip)
        at = placed.end + RATE // 4
    end = placed.end
    frames = end // FRAME + tail
    return Asked(scene[: frames * FRAME], end / RATE, [WORDS[digit] for digit in digits])

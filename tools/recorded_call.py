"""The caller's side of a short call, from recordings of voices that the model never met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training.clips import RATE, WORDS
from training.conversations import Callers

from training import callers, mixing

CALLERS = Path(__file__).parents[1] / "tests" / "data" / "demo" / "callers"

VOICE = "espeak:m3"
#: What the caller says, the second at which they begin, and what the model should answer.
TURNS = (
    (2.0, "three plus four", "seven"),
    (5.5, "eight one seven nine", "eight one seven nine"),
)
#: Seconds between the caller's words.
PAUSE = 0.2
SECONDS = 11.0


@dataclass(frozen=True)
class Line:
    """Something said: by whom, at which second of the call."""

    at: float
    who: str
    words: str

    def __str__(self) -> str:
        return f"{int(self.at // 60)}:{self.at % 60:04.1f}  {self.who:<5}  {self.words}"


def spoken() -> tuple[mixing.Array, list[Line]]:
    """The caller's side of the call, mono at 24 kHz, and its lines."""
    known = Callers(callers.read(CALLERS))
    audio = np.zeros(int(SECONDS * RATE), np.float32)
    lines = []
    for start, words, _ in TURNS:
        at = int(start * RATE)
        for word in words.split():
            clip = known.single[VOICE][WORDS.index(word)][0]
            (placed,) = mixing.place(audio, at, known.clips, clip)
            at = placed.end + int(PAUSE * RATE)
        lines.append(Line(start, "you", words))
    return audio, lines

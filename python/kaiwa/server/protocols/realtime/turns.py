"""Where the model's turns begin and end: it answers every frame, most of them with silence
(docs/spec/protocols.md 3.7). Plain data, clocked by frames of 80 ms."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

#: Louder than -45 dBFS is speech, which begins with two such frames of three ...
LOUD = 10 ** (-45 / 20)
LOUD_FRAMES, LOUD_OF = 2, 3
#: ... or with text. It has ended after 800 ms with neither.
PAUSE_FRAMES = 10
#: Frames before the beginning that belong to the turn, so that its onset is not cut.
PREROLL_FRAMES = 2
#: Speech without a pause becomes another turn after 30 s, at the next frame without text, and after
#: 60 s in any case.
LONG_FRAMES, LONGEST_FRAMES = 375, 750


@dataclass
class Frame:
    """What the model gave for one frame: its number, samples at 24 kHz, pieces of text."""

    number: int
    pcm: NDArray[np.float32] | None
    text: list[str] = field(default_factory=list)


class State(Enum):
    """What the model does."""

    QUIET = auto()
    SPEAKING = auto()
    #: It speaks and is not to be heard until it pauses.
    MUTED = auto()


@dataclass
class Step:
    """What a frame means: whether a turn begins before `frames`, which belong to it, and whether it
    ends after them."""

    begins: bool = False
    frames: list[Frame] = field(default_factory=list)
    ends: bool = False


class Turns:
    """Finds turns in frames.

    Attributes:
        state: what the model does after the last frame.
    """

    def __init__(self) -> None:
        self.state = State.QUIET
        self._recent: deque[bool] = deque(maxlen=LOUD_OF)
        self._preroll: deque[Frame] = deque(maxlen=PREROLL_FRAMES)
        #: Numbers of the frames with which the turn began and of the last one with speech.
        self._began = self._active = 0

    def step(self, frame: Frame) -> Step:
        """Takes the next frame. One without samples brings text that came late."""
        loud = False
        if frame.pcm is not None:
            loud = _loudness(frame.pcm) > LOUD
            self._recent.append(loud)
        speech = bool(frame.text) or (
            loud and (self.state is not State.QUIET or sum(self._recent) >= LOUD_FRAMES)
        )
        if speech:
            self._active = frame.number
        paused = frame.number - self._active >= PAUSE_FRAMES
        if self.state is State.MUTED:
            if paused:
                self._rest()
            return Step()
        if self.state is State.SPEAKING:
            lasted = frame.number - self._began
            long = lasted >= LONGEST_FRAMES or (lasted >= LONG_FRAMES and not frame.text)
            if paused or long:
                self._rest()
            return Step(frames=[frame], ends=paused or long)
        if not speech:
            self._preroll.append(frame)
            return Step()
        self.state = State.SPEAKING
        frames = [*self._preroll, frame]
        self._preroll.clear()
        self._began = frame.number
        return Step(begins=True, frames=frames)

    def mute(self) -> None:
        """The turn is over for the client; what the model still says of it is not heard."""
        self._preroll.clear()
        self.state = State.MUTED

    def interrupt(self) -> None:
        """The turn is over for the client; if the model speaks on, that is another turn."""
        self._rest()
        self._recent.clear()

    def _rest(self) -> None:
        self._preroll.clear()
        self.state = State.QUIET


def _loudness(pcm: NDArray[np.float32]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.dot(pcm, pcm) / max(1, len(pcm))))

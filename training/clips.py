"""Clips of speech: the words there are, and utterances with the place of each of their words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RATE = 24_000

#: Digits, the word of sums, and what only the model says.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
)
WORDS = (*DIGITS, "plus", *TEENS, "hello")
#: Words of callers.
HEARD = (*DIGITS, "plus")


@dataclass
class Clip:
    """An utterance: samples in -1..1 at 24 kHz, words and their first and last+1 samples."""

    audio: Array
    words: list[str]
    bounds: list[tuple[int, int]]
    voice: str = ""


@dataclass
class Clips:
    """Many clips in a few arrays, as they lie in a file."""

    audio: NDArray[np.int16]
    offsets: NDArray[np.int64]
    words: list[list[int]] = field(default_factory=list)
    bounds: list[NDArray[np.int64]] = field(default_factory=list)
    voices: list[str] = field(default_factory=list)

    @cached_property
    def groups(self) -> list[NDArray[np.int64]]:
        """Indices of clips cut out of recordings of people, and of espeak-ng's."""
        recorded = np.array([not voice.startswith("espeak") for voice in self.voices])
        both = (np.flatnonzero(recorded), np.flatnonzero(~recorded))
        return [group for group in both if len(group)]

    def any(self, rng: np.random.Generator) -> int:
        """A clip; each group is as likely, though there are many more voices in one."""
        return int(rng.choice(self.groups[int(rng.integers(len(self.groups)))]))

    def __len__(self) -> int:
        return len(self.words)

    def samples(self, index: int) -> Array:
        """Samples of a clip in -1..1."""
        piece = self.audio[self.offsets[index] : self.offsets[index + 1]]
        return piece.astype(np.float32) / np.float32(32768)


def save(path: Path, clips: list[Clip]) -> None:
    """Writes clips as one file."""
    words = [[WORDS.index(w) for w in c.words] for c in clips]
    np.savez(
        path,
        audio=np.concatenate([(c.audio * 32767).astype(np.int16) for c in clips]),
        offsets=np.cumsum([0, *(len(c.audio) for c in clips)]),
        words=np.concatenate([np.array(w) for w in words]),
        counts=np.array([len(w) for w in words]),
        bounds=np.concatenate([np.array(c.bounds).reshape(-1, 2) for c in clips]),
        voices=np.array([c.voice for c in clips]),
    )


def load(path: Path) -> Clips:
    """Reads what :func:`save` wrote."""
    with np.load(path) as data:
        cuts = np.cumsum(data["counts"])[:-1]
        return Clips(
            audio=data["audio"],
            offsets=data["offsets"],
            words=[list(map(int, w)) for w in np.split(data["words"], cuts)],
            bounds=np.split(data["bounds"], cuts),
            voices=[str(v) for v in data["voices"]],
        )

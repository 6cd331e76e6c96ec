"""Calls to a model and how it did: what callers say, what was answered, and when.

Without PyTorch, so that the project's tests use it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import kaiwa
from training import mixing, words
from training.clips import RATE, WORDS, Clips
from training.conversations import WAIT, Callers, say, turn
from training.listener import SILENCE, errors
from training.mixing import FRAME, Array
from training.voice import Codes, Voice

#: Frames before the caller speaks, in which the model says hello.
LEAD = 20
#: Frames after the caller has ended: the longest answer and some more.
TAIL = 64
#: Frames of an answer before an interruption.
BEFORE = 8


@dataclass
class Scene:
    """A call: the caller's audio, when they speak for the last time, and the right answer."""

    audio: Array
    start: int
    end: int
    answer: list[int]
    #: Frames in which the model has to be silent.
    silent: tuple[int, int]


def scene(rng: np.random.Generator, callers: Callers, kind: str) -> Scene:
    """A call of a held-out caller; ``interrupted``: a second turn while the first is answered."""
    voice = callers.voices[int(rng.integers(len(callers.voices)))]
    speed = float(rng.uniform(0.9, 1.1))
    sums = 1.0 if kind == "sums" else 0.0
    count = 5 if kind == "interrupted" else None
    said = turn(rng, callers, voice, count, sums)
    audio = np.zeros(400 * FRAME, np.float32)
    at = LEAD * FRAME + int(rng.integers(FRAME))
    placed = say(audio, at, callers, said, speed)
    silent = (LEAD, placed[-1].end // FRAME)
    if kind == "interrupted":
        said = turn(rng, callers, voice, int(rng.integers(1, 4)), 0.0)
        at = (placed[-1].end // FRAME + WAIT + BEFORE) * FRAME + int(rng.integers(FRAME))
        placed = say(audio, at, callers, said, speed)
        # Six frames to notice the interruption and stop.
        silent = (at // FRAME + 6, placed[-1].end // FRAME)
    frames = placed[-1].end // FRAME + TAIL
    heard = mixing.noisy(rng, mixing.heard(rng, audio[: frames * FRAME]))
    return Scene(heard, at, placed[-1].end, said.answer, silent)


class Reader(Protocol):
    """Who reads words out of audio: :class:`training.listener.Listener`."""

    def words(self, audio: Array) -> list[str]:
        """Words of audio ``[samples]`` at 24 kHz."""


@dataclass
class Answers:
    """What came out for each scene: audio, and text token of each frame."""

    audio: list[Array]
    text: list[NDArray[np.int64]]


def converse(folder: Path | str, scenes: list[Scene], seed: int, **options: Any) -> Answers:
    """Gives all scenes to the model, one slot each."""
    duplex = kaiwa.Duplex.from_pretrained(
        folder, slots=len(scenes), seed=seed, prime=True, device="cpu", **options
    )
    longest = max(len(s.audio) for s in scenes) // FRAME
    heard = np.zeros((len(scenes), longest * FRAME), np.float32)
    for row, one in zip(heard, scenes, strict=True):
        row[: len(one.audio)] = one.audio
    outs = [duplex.step(np.ascontiguousarray(part)) for part in np.split(heard, longest, 1)]
    audio = np.concatenate([o.audio for o in outs], 1)
    text = np.stack([o.text_tokens for o in outs], 1).astype(np.int64)
    lengths = [len(s.audio) // FRAME for s in scenes]
    return Answers(
        [a[: n * FRAME] for a, n in zip(audio, lengths, strict=True)],
        [t[:n] for t, n in zip(text, lengths, strict=True)],
    )


def perfect(scenes: list[Scene], own: Clips, codec: kaiwa.Mimi | None) -> Answers:
    """The right answers in the model's own voice, through the codec if there is one."""
    answers = Answers([], [])
    codes = Codes(codec, own) if codec else None
    for one in scenes:
        voice = Voice(own, len(one.audio) // FRAME)
        voice.say(-(-one.end // FRAME) + WAIT, one.answer)
        audio = voice.audio
        if codec and codes:
            audio = codec.stream(1).decode(codes.of(voice.parts)[None].astype(np.uint32))[0, 0]
        answers.audio.append(audio)
        answers.text.append(voice.text)
    return answers


def score(scenes: list[Scene], answers: Answers, listener: Reader) -> dict[str, Any]:
    """Shares of right words in text and audio, onset, and silence while listening."""
    wanted = wrong_text = wrong_audio = whole = 0
    onsets: list[float] = []
    talked = 0
    for one, audio, text in zip(scenes, answers.audio, answers.text, strict=True):
        first = one.end // FRAME
        answer = [WORDS[w] for w in one.answer]
        read = [WORDS[t - words.SPECIAL] for t in text[first:] if t >= words.SPECIAL]
        heard = listener.words(audio[first * FRAME :])
        wanted += len(answer)
        wrong_text += min(errors(answer, read), len(answer))
        wrong_audio += min(errors(answer, heard), len(answer))
        whole += answer == read == heard
        loud = np.flatnonzero(np.abs(audio[one.end :]) > SILENCE)
        if len(loud):
            onsets.append(1000 * float(loud[0]) / RATE)
        begin, end = one.silent
        quiet = audio[begin * FRAME : end * FRAME]
        talked += bool((text[begin:end] >= words.SPECIAL).any() or (np.abs(quiet) > 0.05).any())
    return {
        "calls": len(scenes),
        "words": wanted,
        "text right": round(1 - wrong_text / wanted, 4),
        "audio right": round(1 - wrong_audio / wanted, 4),
        "calls all right": round(whole / len(scenes), 4),
        "no answer": len(scenes) - len(onsets),
        "onset ms (10, 50, 90 %)": [round(float(v)) for v in np.percentile(onsets, (10, 50, 90))]
        if onsets
        else None,
        "talked while listening": round(talked / len(scenes), 4),
    }

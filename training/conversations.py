"""Conversations as the language model sees them: ``python -m training.conversations --work DIR``.

The model says hello, listens, and after a short silence says the digits it heard, or the sum of
two; when it is interrupted it stops and listens. Each conversation is a function of the seed and
its number. They are encoded by the exported codec, through Kaiwa, and written in shards of 200 to
``conversations`` in the work folder; shards that exist are kept, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kaiwa
from training import clips, mixing
from training.clips import DIGITS, HEARD, RATE, WORDS, Clips
from training.mixing import FRAME, Array, Placed
from training.voice import Codes, Voice

#: Frames of a conversation: 15.4 s.
FRAMES = 192
#: Conversations of a file.
SHARD = 200
#: Longest pause (s) within what a caller says, and frames of silence before the answer.
PAUSE, WAIT = 0.55, 9
#: Frames between the begin of an interruption and the model's silence.
CUT = 4
#: Frame of the greeting.
HELLO = 4
#: Share of turns that begin while the model speaks.
INTERRUPTED = 0.3
#: Share of conversations that the caller begins, before the greeting or in it.
FIRST = 0.15
#: Share of callers without room, tone and noise.
PLAIN = 0.25
#: How often voices of a kind call: cut out of recordings, made by rule, others (with an accent).
SHARES = (0.5, 0.36, 0.14)
KINDS = {"flite": 0, "festival": 0, "espeak": 1}
#: In the names of new speakers.
NEW = "~"
#: Longest pause (s) in a clip.
GAP = 0.45
PLUS = WORDS.index("plus")


@dataclass
class Callers:
    """Clips by voice: single words, phrases of digits, and spoken sums."""

    clips: Clips
    single: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    phrases: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, (said, voice) in enumerate(
            zip(self.clips.words, self.clips.voices, strict=True)
        ):
            if len(said) == 1:
                self.single.setdefault(voice, {}).setdefault(said[0], []).append(index)
            elif self._flows(index):
                where = self.sums if PLUS in said else self.phrases
                where.setdefault(voice, []).append(index)

    def _flows(self, index: int) -> bool:
        """Whether no pause in a clip could be taken for the end."""
        edges = self.clips.bounds[index]
        return bool((edges[1:, 0] - edges[:-1, 1]).max() < GAP * RATE)

    @cached_property
    def voices(self) -> list[str]:
        """Voices that can say everything."""
        return sorted(v for v, known in self.single.items() if len(known) == len(HEARD))

    @cached_property
    def groups(self) -> list[tuple[float, list[list[str]]]]:
        """Kinds of voices, how often one of them calls, the voices as they are and the new ones."""
        found = []
        for kind, share in enumerate(SHARES):
            voices = [v for v in self.voices if KINDS.get(v.split(":")[0], 2) == kind]
            parts = [[v for v in voices if (NEW in v) is new] for new in (False, True)]
            if voices:
                found.append((share, [part for part in parts if part]))
        return found

    def voice(self, rng: np.random.Generator) -> str:
        """One of the voices; the few cut out of recordings as often as the many others."""
        shares = np.array([share for share, _ in self.groups])
        parts = self.groups[int(rng.choice(len(shares), p=shares / shares.sum()))][1]
        return str(pick(rng, pick(rng, parts)))


@dataclass
class Turn:
    """What a caller says at once: clips with the pause (s) after each, and their words."""

    clips: list[int]
    pauses: list[float]
    words: list[int]

    @property
    def answer(self) -> list[int]:
        """Words of the answer: the sum of a sum, else the same digits."""
        if PLUS not in self.words:
            return self.words
        total = self.words[0] + self.words[2]
        return [total if total < len(DIGITS) else PLUS + 1 + total - len(DIGITS)]


@dataclass
class Exchange:
    """A turn in a conversation, in samples and frames; ``cut`` is where the answer broke off."""

    words: list[int]
    answer: list[int]
    start: int
    end: int
    answer_frame: int
    cut: int | None = None


@dataclass
class Conversation:
    """Both sides of a conversation, before the codec."""

    caller: Array
    own: Array
    parts: NDArray[np.int64]
    text: NDArray[np.int64]
    labels: NDArray[np.int64]
    exchanges: list[Exchange]


def pick(rng: np.random.Generator, among: list[Any]) -> Any:
    """One of a list."""
    return among[int(rng.integers(len(among)))]


def turn(
    rng: np.random.Generator,
    callers: Callers,
    voice: str,
    count: int | None = None,
    sums: float = 0.25,
) -> Turn:
    """Something that a caller says: ``count`` digits (1 to 6 if not given), or a sum."""
    known = callers.single[voice]
    if rng.random() < sums:
        if voice in callers.sums and rng.random() < 0.5:
            chosen = [pick(rng, callers.sums[voice])]
        else:
            a, b = (int(rng.integers(len(DIGITS))) for _ in range(2))
            chosen = [pick(rng, known[w]) for w in (a, PLUS, b)]
    else:
        left = int(rng.integers(1, 7)) if count is None else count
        chosen = []
        while left:
            fitting = [
                p for p in callers.phrases.get(voice, []) if len(callers.clips.words[p]) <= left
            ]
            if fitting and rng.random() < 0.5:
                chosen.append(pick(rng, fitting))
            else:
                chosen.append(pick(rng, known[int(rng.integers(len(DIGITS)))]))
            left -= len(callers.clips.words[chosen[-1]])
    pauses = [
        float(rng.uniform(0.1, PAUSE) if rng.random() < 0.7 else rng.uniform(0.02, 0.1))
        for _ in chosen
    ]
    return Turn(chosen, pauses, [w for c in chosen for w in callers.clips.words[c]])


def say(scene: Array, at: int, callers: Callers, said: Turn, speed: float) -> list[Placed]:
    """Puts a turn into a scene at a sample; gives its words."""
    placed: list[Placed] = []
    for clip, pause in zip(said.clips, said.pauses, strict=True):
        placed += mixing.place(scene, at, callers.clips, clip, speed)
        at = placed[-1].end + int(pause * RATE)
    return placed


def converse(
    rng: np.random.Generator, callers: Callers, own: Clips, frames: int = FRAMES
) -> Conversation:
    """A whole conversation."""
    voice = callers.voice(rng)
    speed = float(rng.uniform(*mixing.SPEEDS))
    scene, me = np.zeros(frames * FRAME, np.float32), Voice(own, frames)
    quiet = me.say(HELLO, [WORDS.index("hello")])
    begun = HELLO
    placed: list[Placed] = []
    exchanges: list[Exchange] = []
    first = rng.random() < FIRST
    while rng.random() > 0.02:  # now and then nobody says anything more
        if first:
            at, first = int(rng.uniform(0, 0.6) * RATE), False
        elif rng.random() < INTERRUPTED:
            at = int(rng.uniform(begun + 1, max(quiet - 1, begun + 2)) * FRAME)
        else:
            at = quiet * FRAME + int(rng.uniform(0.2, 1.4 if rng.random() < 0.85 else 4) * RATE)
        if at >= len(scene):
            break
        stopped = -(-at // FRAME) + CUT
        if stopped < quiet:
            me.stop(stopped)
            if exchanges:
                exchanges[-1].cut = stopped
        said = turn(rng, callers, voice)
        spoken = say(scene, at, callers, said, speed)
        placed += spoken
        begun = -(-spoken[-1].end // FRAME) + WAIT
        quiet = me.say(begun, said.answer)
        exchanges.append(Exchange(said.words, said.answer, at, spoken[-1].end, begun))
    if rng.random() < PLAIN:
        heard = scene * np.float32(rng.uniform(0.3, 1.6))
    else:
        heard = mixing.noisy(rng, mixing.heard(rng, scene))
    labels = mixing.labels(placed, frames)
    return Conversation(heard, me.audio, me.parts, me.text, labels, exchanges)


def encode(mimi: kaiwa.Mimi, own: Codes, made: list[Conversation]) -> NDArray[np.int64]:
    """Frames ``[N, 1 + 2 n_q, T]`` of conversations: text, own codes, codes of the caller."""
    caller = mimi.stream(len(made)).encode(np.stack([c.caller for c in made])[:, None])
    text = np.stack([c.text for c in made])[:, None]
    return np.concatenate((text, np.stack([own.of(c.parts) for c in made]), caller), 1)


def write(path: Path, mimi: kaiwa.Mimi, own: Codes, made: list[Conversation]) -> None:
    """Writes a shard, whole or not at all."""
    parts = [encode(mimi, own, made[at : at + 20]) for at in range(0, len(made), 20)]
    temporary = path.with_suffix(".new")
    labels = np.stack([c.labels for c in made]).astype(np.uint8)
    with temporary.open("wb") as file:
        np.savez(file, frames=np.concatenate(parts).astype(np.uint16), labels=labels)
    temporary.replace(path)


def load(folder: Path) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """All shards of a folder: frames ``[N, 1 + n_q, T]`` and labels ``[N, T]``."""
    files = sorted(folder.glob("[0-9]*.npz"))
    if not files:
        raise SystemExit(f"no conversations in {folder}: run python -m training.conversations")
    parts = [np.load(file) for file in files]
    frames, labels = ([p[name] for p in parts] for name in ("frames", "labels"))
    return np.concatenate(frames), np.concatenate(labels)


def main() -> None:
    """Writes the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--codec", type=Path, help="folder of the codec (default: WORK/codec)")
    parser.add_argument("--out", type=Path, help="folder (default: WORK/conversations)")
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="first shard")
    parser.add_argument("--every", type=int, default=1, help="to share shards among processes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out or options.work / "conversations"
    mimi = kaiwa.Mimi.from_pretrained(options.codec or options.work / "codec", device="cpu")
    own = clips.load(options.work / "clips_own.npz")
    codes = Codes(mimi, own)
    for part, shards in (("train", options.shards), ("held_out", 1)):
        folder = out / part
        folder.mkdir(parents=True, exist_ok=True)
        callers = Callers(clips.load(options.work / f"clips_{part}.npz"))
        for shard in range(options.first, shards, options.every):
            path = folder / f"{shard:04}.npz"
            if path.exists():
                continue
            started = time.time()
            numbers = range(shard * SHARD, (shard + 1) * SHARD)
            seed = options.seed + (part == "held_out") * 1_000_000
            made = [converse(np.random.default_rng((seed, n)), callers, own) for n in numbers]
            write(path, mimi, codes, made)
            print(f"{part} {path.name}: {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""Speech of free synthesisers, cut into words: ``python -m training.speech --work DIR``.

Writes ``clips_train.npz`` and ``clips_held_out.npz`` (callers) and ``clips_own.npz`` (the model's
own voice). A clip is one utterance at 24 kHz with the place of each of its words.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import random
import subprocess
import tempfile
import tomllib
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from training.clips import DIGITS, HEARD, RATE, WORDS, Array, Clip, save
from training.speakers import speaker, spoken_by

#: The voice of espeak-ng that has no name, and its usual speed, pitch and range.
DEFAULT = "default"
USUAL = {"speed": 175, "pitch": 50, "range": 50}
#: Sounds of a word, by which a synthesiser's list of sounds is cut into words.
SOUNDS = {
    "zero": 4,
    "one": 3,
    "two": 2,
    "three": 3,
    "four": 3,
    "five": 3,
    "six": 4,
    "seven": 5,
    "eight": 2,
    "nine": 3,
    "plus": 4,
}


def resampled(audio: Array, rate: int) -> Array:
    """To 24 kHz, scaled to a peak of 0.6."""
    factor = int(np.gcd(rate, RATE))
    out = resample_poly(audio, RATE // factor, rate // factor).astype(np.float32)
    peak = float(np.abs(out).max())
    scaled: Array = out * np.float32(0.6 / max(peak, 1e-4))
    return scaled


def loud_span(audio: Array, floor: float = 0.02) -> tuple[int, int]:
    """First and last+1 sample louder than ``floor`` of the peak, in steps of 5 ms."""
    step = RATE // 200
    count = len(audio) // step
    if count == 0:
        return 0, len(audio)
    loud = np.abs(audio[: count * step]).reshape(count, step).max(1)
    where = np.flatnonzero(loud > floor * max(float(loud.max()), 1e-4))
    return (int(where[0]) * step, int(where[-1] + 1) * step) if len(where) else (0, len(audio))


def cut(audio: Array, words: list[str], bounds: list[tuple[int, int]], voice: str) -> Clip | None:
    """A clip without silence before and after; ``None`` if a word is implausibly short or long."""
    fitted = []
    for start, end in bounds:
        first, last = loud_span(audio[start:end])
        fitted.append((start + first, start + last))
    if any(not 0.06 < (b - a) / RATE < 1.6 for a, b in fitted):
        return None
    begin, end = fitted[0][0], fitted[-1][1]
    return Clip(audio[begin:end], words, [(a - begin, b - begin) for a, b in fitted], voice)


def by_sounds(words: list[str], ends: list[tuple[str, float]]) -> list[tuple[int, int]] | None:
    """Word bounds from the ends (s) of the sounds; ``None`` if their number does not fit."""
    times, before = [], 0.0
    for name, end in ends:
        if name not in ("pau", "#", "h#", "ssil"):
            times.append((before, end))
        before = end
    if len(times) != sum(SOUNDS[w] for w in words):
        return None
    bounds, at = [], 0
    for word in words:
        first, last = times[at], times[at + SOUNDS[word] - 1]
        bounds.append((int(first[0] * RATE), int(last[1] * RATE)))
        at += SOUNDS[word]
    return bounds


# Each synthesiser: (voice, settings, word lists) to clips.


def flite(job: dict[str, Any]) -> list[Clip]:
    """Clips of flite, whose own list of sounds says where words are."""
    clips = []
    for words, text in job["texts"]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.wav"
            command = ["flite", "-voice", job["voice"], "-psdur", "-o", str(path)]
            command += ["--setf", f"duration_stretch={job['stretch']}"]
            command += ["--setf", f"f0_shift={job.get('pitch', 1.0)}", "-t", text]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            audio, rate = soundfile.read(path, dtype="float32")
        audio = resampled(audio, rate)
        ends = [(s.split(":")[0], float(s.split(":")[1])) for s in said.split()]
        bounds = [(0, len(audio))] if len(words) == 1 else by_sounds(words, ends)
        clip = cut(audio, words, bounds, f"flite:{job['voice']}") if bounds else None
        clips += [clip] if clip else []
    return clips


def festival(job: dict[str, Any]) -> list[Clip]:
    """Clips of festival; one process says all texts of a job."""
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"({job['voice']})", f"(Parameter.set 'Duration_Stretch {job['stretch']})"]
        for index, (_, text) in enumerate(job["texts"]):
            lines.append(f'(set! u (utt.synth (Utterance Text "{text}")))')
            lines.append(f'(utt.save.wave u "{folder}/{index}.wav" \'riff)')
            lines.append('(mapcar (lambda (w) (format t "%s " (item.feat w "word_end")))')
            lines.append("        (utt.relation.items u 'Word))")
            lines.append('(format t "\\n")')
        script = Path(folder) / "say.scm"
        script.write_text("\n".join(lines))
        said = subprocess.run(["festival", "-b", str(script)], capture_output=True, check=True)
        ends = said.stdout.decode("latin-1").splitlines()
        for index, (words, _) in enumerate(job["texts"]):
            audio, rate = soundfile.read(f"{folder}/{index}.wav", dtype="float32")
            audio = resampled(audio, rate)
            edges = [0, *(int(float(end) * RATE) for end in ends[index].split())]
            if len(edges) != len(words) + 1:
                continue
            bounds = list(itertools.pairwise([*edges[:-1], len(audio)]))
            clip = cut(audio, words, bounds, f"{job['synth']}:{job['voice']}")
            clips += [clip] if clip else []
    return clips


class _Event(ctypes.Structure):
    """espeak-ng's event (its public header speak_lib.h); type 1 is the start of a word."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@functools.cache
def _espeak_library() -> tuple[Any, int]:
    """The library and its rate, set up once a process."""
    library = ctypes.CDLL("libespeak-ng.so.1")
    return library, library.espeak_Initialize(2, 0, None, 0)  # 2: samples to a callback


def espeak(job: dict[str, Any]) -> list[Clip]:
    """Clips of espeak-ng, whose library tells where each word starts."""
    library, rate = _espeak_library()
    variant = "" if job["voice"] == DEFAULT else f"+{job['voice']}"
    pieces: list[NDArray[np.int16]] = []
    starts: list[int] = []

    def receive(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        at = 0
        while events[at].type != 0:
            if events[at].type == 1:
                starts.append(events[at].sample)
            at += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    clips = []
    for words, text in job["texts"]:
        pieces.clear()
        starts.clear()
        if library.espeak_SetVoiceByName(f"{job['dialect']}{variant}".encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {job['dialect']}{variant}")
        library.espeak_SetParameter(1, job["speed"], 0)
        library.espeak_SetParameter(3, job["pitch"], 0)
        library.espeak_SetParameter(4, job["range"], 0)
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        library.espeak_Synchronize()
        if not pieces:
            continue
        audio = resampled(np.concatenate(pieces).astype(np.float32) / np.float32(32768), rate)
        firsts = [int(s * RATE / rate) for s in starts]
        if len(firsts) != len(words):
            continue
        # The first samples of a word are reported a little late.
        lead = RATE // 100
        edges = [0, *(max(f - lead, 0) for f in firsts[1:]), len(audio)]
        bounds = list(itertools.pairwise(edges))
        clip = cut(audio, words, bounds, f"{job.get('group', 'espeak')}:{job['voice']}")
        clips += [clip] if clip else []
    return clips


SYNTHS = {"flite": flite, "festival": festival, "accent": festival, "espeak": espeak}


def run(job: dict[str, Any]) -> list[Clip]:
    """One job, in a process of its own; its clips said by a new speaker if it names one."""
    clips = SYNTHS[job["synth"]](job)
    if "speaker" not in job:
        return clips
    rng = np.random.default_rng(job["speaker"])
    who = speaker(rng)
    others = [spoken_by(clip, who, rng) for clip in clips]
    return [
        Clip(other.audio, other.words, other.bounds, f"{other.voice}~{job['speaker']}")
        for other in others
        if other
    ]


def texts(rng: random.Random, phrases: int) -> list[tuple[list[str], str]]:
    """Every word of callers once, and some phrases with and without commas."""
    out: list[tuple[list[str], str]] = [([w], w) for w in HEARD]
    for _ in range(phrases):
        if rng.random() < 0.2:
            words = [rng.choice(DIGITS), "plus", rng.choice(DIGITS)]
            out.append((words, " ".join(words)))
        else:
            words = [rng.choice(DIGITS) for _ in range(rng.randint(2, 6))]
            out.append((words, rng.choice((" ", " ", ", ")).join(words)))
    return out


def recorded(
    voices: dict[str, Any], rng: random.Random, rounds: int, new: int, phrases: int
) -> list[Any]:
    """Jobs of flite and festival: each voice at its usual settings, at others, as new speakers."""
    out: list[dict[str, Any]] = []
    for synth in ("flite", "festival"):
        for voice, number in itertools.product(voices.get(synth, []), range(rounds + new)):
            job = {"synth": synth, "voice": voice, "stretch": 1.0, "texts": texts(rng, phrases)}
            if number >= rounds:
                job |= {"stretch": rng.uniform(0.85, 1.15), "speaker": rng.randrange(1 << 30)}
                job["texts"] = job["texts"][: len(HEARD) + phrases // 2]
            elif number % 3:
                # Only flite takes a pitch, and not with every voice.
                job |= {"stretch": rng.uniform(0.7, 1.4), "pitch": rng.uniform(0.65, 1.5)}
            out.append(job)
    return out


def accented(voices: dict[str, Any], rng: random.Random, rounds: int, new: int) -> list[Any]:
    """Jobs of voices for other languages, which say the words in their spelling."""
    out: list[dict[str, Any]] = []
    for spelling in voices.get("accents", []):
        spelled = dict(zip(HEARD, spelling["words"].split(), strict=True))
        for voice, number in itertools.product(spelling["voices"], range(rounds + new)):
            said = [(words, ", ".join(spelled[w] for w in words)) for words, _ in texts(rng, 8)]
            stretch = rng.uniform(0.75, 1.2)
            job = {"synth": "accent", "voice": voice, "stretch": stretch, "texts": said}
            if number >= rounds:
                job["speaker"] = rng.randrange(1 << 30)
            out.append(job)
    return out


def formant(
    voices: dict[str, Any], dialects: list[str], rng: random.Random, rounds: int, new: int
) -> list[Any]:
    """Jobs of espeak-ng: of each voice the usual settings, others, and new speakers."""
    out: list[dict[str, Any]] = []
    for voice in voices.get("espeak", []):
        # Its voices are many and made by rule already: fewer new speakers.
        size = rounds + new // 4
        for number in range((8 if voice == DEFAULT else 1) * size):
            job = {"synth": "espeak", "voice": voice, "texts": texts(rng, 10), **USUAL}
            job["dialect"] = rng.choice(dialects)
            if number % size:
                job |= {"speed": rng.randint(90, 240), "pitch": rng.randint(5, 95)}
                job["range"] = rng.randint(15, 90)
            if number % size >= rounds:
                job["speaker"] = rng.randrange(1 << 30)
            out.append(job)
    for spelling in voices.get("espeak_accents", []):
        spelled = dict(zip(HEARD, spelling["words"].split(), strict=True))
        for language, variant in itertools.product(spelling["languages"], spelling["variants"]):
            said = [(words, " ".join(spelled[w] for w in words)) for words, _ in texts(rng, 8)]
            settings = {"speed": rng.randint(110, 200), "pitch": rng.randint(15, 85)}
            job = {"synth": "espeak", "dialect": language, "group": "accent", "texts": said}
            out.append({**job, **USUAL, **settings, "voice": variant})
    return out


def jobs(
    voices: dict[str, Any],
    dialects: list[str],
    seed: int,
    rounds: int,
    new: int,
    phrases: int = 22,
) -> list[Any]:
    """What to synthesise for a set of voices, at ``rounds`` settings and as ``new`` speakers."""
    rng = random.Random(seed)
    found = recorded(voices, rng, 2 * rounds, 3 * new, phrases)
    found += accented(voices, rng, rounds, new)
    found += formant(voices, dialects, rng, rounds, new)
    return sorted(found, key=lambda _: rng.random())


def main() -> None:
    """Synthesises all clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4, help="settings per voice")
    parser.add_argument("--new", type=int, default=4, help="new speakers per voice")
    parser.add_argument("--phrases", type=int, default=22, help="of a recorded voice at a setting")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    voices = tomllib.loads((Path(__file__).parent / "voices.toml").read_text())
    dialects = voices["dialects"]["names"]
    own = voices["own"]
    parts = {
        "train": jobs(
            voices["train"],
            dialects,
            options.seed,
            options.rounds,
            options.new,
            options.phrases,
        ),
        "held_out": jobs(voices["held_out"], dialects, options.seed + 1, 3, 0),
        "own": [
            own | {"stretch": own["stretches"].get(w, own["stretch"]), "texts": [([w], w)]}
            for w in WORDS
        ],
    }
    with Pool(2) as pool:
        for name, work in parts.items():
            path = options.work / f"clips_{name}.npz"
            if path.exists():
                continue
            clips = [c for found in pool.imap(run, work, 4) for c in found]
            save(path, clips)
            seconds = sum(len(c.audio) for c in clips) / RATE
            print(f"{name}: {len(clips)} clips, {seconds / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()

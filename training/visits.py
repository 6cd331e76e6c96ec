"""What a visitor tries first: ``python -m training.visits``.

Each voice of the synthesisers as its own command says a few digits and sums, at its usual settings
and at some others, in one go and with no microphone, room or noise. Prints one line a voice and the
shares by kind: voices of the training and voices held out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import resample_poly

from training.calls import LEAD, TAIL, Scene, converse, score
from training.clips import DIGITS, RATE, WORDS
from training.conversations import Turn
from training.listener import Listener
from training.mixing import FRAME, Array
from training.speech import DEFAULT, loud_span

#: Of espeak-ng: a few variants of the training.
KNOWN = (DEFAULT, "f1", "f4", "m1", "m7", "Andy", "Annie", "klatt", "linda")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland")


def commands(voices: dict[str, Any]) -> dict[str, list[list[str]]]:
    """By voice, the commands (usual and other settings) that write TEXT as OUT."""
    out: dict[str, list[list[str]]] = {}
    for voice in voices.get("flite", []):
        flite = ["flite", "-voice", voice, "-o", "OUT", "-t", "TEXT"]
        slow = ["--setf", "duration_stretch=1.25", "--setf", "f0_shift=1.15"]
        out[f"flite:{voice}"] = [flite, [*flite, *slow]]
    for voice in voices.get("festival", []):
        festival = ["text2wave", "-eval", f"({voice})", "-o", "OUT"]
        slow = ["-eval", "(Parameter.set 'Duration_Stretch 1.25)"]
        out[f"festival:{voice}"] = [[*festival, "TEXT"], [*festival, *slow, "TEXT"]]
    for voice in voices.get("espeak", []):
        variant = "" if voice == DEFAULT else f"+{voice}"
        said = [["espeak-ng", "-v", a + variant, "-w", "OUT", "TEXT"] for a in ACCENTS]
        out[f"espeak:{voice}"] = [*said, [*said[0], "-s", "130", "-p", "65"]]
    return out


def say(command: list[str], text: str) -> Array:
    """What a command makes of a text, at 24 kHz, as loud as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        wave, file = Path(folder) / "a.wav", Path(folder) / "a.txt"
        file.write_text(text + "\n")
        if command[0] == "text2wave":
            text = str(file)
        places = {"OUT": str(wave), "TEXT": text}
        subprocess.run([places.get(c, c) for c in command], check=True, capture_output=True)
        audio, rate = soundfile.read(wave, dtype="float32")
    factor = int(np.gcd(rate, RATE))
    made: Array = resample_poly(audio, RATE // factor, rate // factor).astype(np.float32)
    return made


def scene(rng: np.random.Generator, command: list[str], kind: str) -> Scene:
    """A call of three to five digits, or of a sum."""
    if kind == "sums":
        a, b = (int(n) for n in rng.integers(len(DIGITS), size=2))
        words = [a, WORDS.index("plus"), b]
    else:
        words = [int(n) for n in rng.integers(len(DIGITS), size=int(rng.integers(3, 6)))]
    audio = say(command, " ".join(WORDS[w] for w in words))
    first, last = loud_span(audio)
    at = LEAD * FRAME + int(rng.integers(FRAME))
    frames = (at + last) // FRAME + TAIL
    whole = np.zeros(max(frames * FRAME, at + len(audio)), np.float32)
    whole[at : at + len(audio)] = audio
    silent = (LEAD, (at + last) // FRAME)
    answer = Turn([], [], words).answer
    return Scene(whole[: frames * FRAME], at + first, at + last, answer, silent)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="folder, file or name")
    parser.add_argument("--calls", type=int, default=2, help="of each kind, voice and setting")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    known = tomllib.loads((Path(__file__).parent / "voices.toml").read_text())
    known["train"]["espeak"] = list(KNOWN)
    listener, rng = Listener(), np.random.default_rng(options.seed)
    for part in ("train", "held_out"):
        everything: dict[str, list[Any]] = {"digits": [], "sums": []}
        for voice, ways in commands(known[part]).items():
            row: dict[str, Any] = {"voice": voice}
            for kind, count in (("digits", options.calls), ("sums", -(-options.calls // 2))):
                scenes = [scene(rng, way, kind) for way in ways for _ in range(count)]
                answers = converse(options.model, scenes, options.seed)
                everything[kind].append((scenes, answers))
                found = score(scenes, answers, listener)
                row[kind] = {k: found[k] for k in ("words", "text right", "audio right")}
            print(json.dumps(row), flush=True)
        for kind, rows in everything.items():
            wanted = [s for scenes, _ in rows for s in scenes]
            answers = rows[0][1]
            for _, more in rows[1:]:
                answers.audio.extend(more.audio)
                answers.text.extend(more.text)
            print(part, kind, json.dumps(score(wanted, answers, listener)), flush=True)


if __name__ == "__main__":
    main()

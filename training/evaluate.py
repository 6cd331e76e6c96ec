"""What the trained models say, through Kaiwa: ``python -m training.evaluate --work DIR``.

Callers with held-out voices say digits and sums to the exported model; its text is read, and its
voice is listened to by pocketsphinx. First the same is done with perfect answers, plain and
through the codec: no model can be rated higher than these. Prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pesq import NoUtterancesError, pesq
from pystoi import stoi
from scipy.signal import resample_poly

import kaiwa
from training import clips
from training.calls import converse, perfect, scene, score
from training.clips import DIGITS, RATE, WORDS, Clips
from training.conversations import Callers
from training.listener import Listener, errors
from training.mixing import FRAME, Array


def opus(audio: Array) -> Array:
    """Through Opus at its lowest rate (6 kbit/s)."""
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format="OGG", subtype="OPUS", compression_level=1.0)
    file.seek(0)
    out, rate = soundfile.read(file, dtype="float32")
    if rate != RATE:
        out = resample_poly(out, RATE, rate)
    return np.pad(out, (0, max(len(audio) - len(out), 0)))[: len(audio)].astype(np.float32)


def codec_quality(phrases: Clips, codec: kaiwa.Mimi, count: int, seed: int) -> dict[str, Any]:
    """STOI, PESQ (wide band) and recognised words of held-out phrases, through codec and Opus."""
    listener = Listener((*DIGITS, "plus"))
    rng = np.random.default_rng(seed)
    long = [i for i, said in enumerate(phrases.words) if len(said) > 1]
    chosen = rng.permutation(long)[:count]

    def through(audio: Array) -> Array:
        stream = codec.stream(1)
        return stream.decode(stream.encode(audio[None, None]))[0, 0]

    paths: dict[str, Callable[[Array], Array]] = {
        "original": lambda audio: audio,
        "codec": through,
        "opus 6 kbit/s": opus,
    }
    out: dict[str, Any] = {}
    for name, path in paths.items():
        found: dict[str, list[float]] = {"stoi": [], "pesq": []}
        wrong = total = 0
        for index in chosen:
            audio = phrases.samples(int(index))
            audio = np.pad(audio, (FRAME, FRAME + -len(audio) % FRAME))
            copy = path(audio)
            said = [WORDS[w] for w in phrases.words[int(index)]]
            total += len(said)
            wrong += min(errors(said, listener.words(copy)), len(said))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found["stoi"].append(float(stoi(audio, copy, RATE)))
                a, b = resample_poly(audio, 2, 3), resample_poly(copy, 2, 3)
                try:
                    found["pesq"].append(float(pesq(16000, a, b, "wb")))
                except NoUtterancesError:
                    found["pesq"].append(1.0)
        out[name] = {k: round(float(np.mean(v)), 3) for k, v in found.items()}
        out[name]["words right"] = round(1 - wrong / total, 4)
    return out


def main() -> None:
    """Prints all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--model", type=Path, help="folder or file (default: WORK/model)")
    parser.add_argument("--codec", type=Path, help="folder (default: WORK/codec)")
    parser.add_argument("--calls", type=int, default=40, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-model", action="store_true", help="only codec and ceilings")
    options = parser.parse_args()
    held_out = clips.load(options.work / "clips_held_out.npz")
    own = clips.load(options.work / "clips_own.npz")
    codec = kaiwa.Mimi.from_pretrained(options.codec or options.work / "codec", device="cpu")
    figures: dict[str, Any] = {"codec": codec_quality(held_out, codec, options.calls, options.seed)}
    callers, listener = Callers(held_out), Listener()
    for number, kind in enumerate(("digits", "sums", "interrupted")):
        rng = np.random.default_rng((options.seed, number))
        scenes = [scene(rng, callers, kind) for _ in range(options.calls)]
        found = {
            "perfect": score(scenes, perfect(scenes, own, None), listener),
            "perfect, through the codec": score(scenes, perfect(scenes, own, codec), listener),
        }
        if not options.no_model:
            model = options.model or options.work / "model"
            found["model"] = score(scenes, converse(model, scenes, options.seed), listener)
        figures[kind] = found
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

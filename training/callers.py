"""Callers for tests, small enough to be kept: ``python -m training.callers --work DIR OUT``.

Of every held-out voice each word once, and a few phrases and sums: ``OUT.flac`` and ``OUT.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from training import clips
from training.clips import HEARD, RATE, WORDS, Clips


def chosen(held_out: Clips, phrases: int, sums: int, seed: int = 0) -> list[int]:
    """Indices of the clips to keep."""
    rng = np.random.default_rng(seed)
    wanted: dict[tuple[str, str], int] = {}
    for voice in sorted(set(held_out.voices)):
        wanted |= {(voice, word): 1 for word in HEARD}
        wanted |= {(voice, "phrase"): phrases, (voice, "sum"): sums}
    keep = []
    for index in rng.permutation(len(held_out)):
        said = [WORDS[w] for w in held_out.words[index]]
        kind = said[0] if len(said) == 1 else "sum" if "plus" in said else "phrase"
        if wanted[held_out.voices[index], kind]:
            wanted[held_out.voices[index], kind] -= 1
            keep.append(int(index))
    return sorted(keep)


def write(path: Path, kept: Clips, indices: list[int]) -> None:
    """Writes clips as FLAC and JSON."""
    pieces = [kept.audio[kept.offsets[i] : kept.offsets[i + 1]] for i in indices]
    soundfile.write(path.with_suffix(".flac"), np.concatenate(pieces), RATE, subtype="PCM_16")
    rows = [
        {
            "voice": kept.voices[i],
            "samples": len(piece),
            "words": [WORDS[w] for w in kept.words[i]],
            "bounds": kept.bounds[i].tolist(),
        }
        for i, piece in zip(indices, pieces, strict=True)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.with_suffix(".json").write_text(f"[\n{lines}\n]\n")


def read(path: Path) -> Clips:
    """What :func:`write` wrote."""
    rows = json.loads(path.with_suffix(".json").read_text())
    audio, _ = soundfile.read(path.with_suffix(".flac"), dtype="int16")
    return Clips(
        audio=audio,
        offsets=np.cumsum([0, *(row["samples"] for row in rows)]),
        words=[[WORDS.index(w) for w in row["words"]] for row in rows],
        bounds=[np.array(row["bounds"]).reshape(-1, 2) for row in rows],
        voices=[row["voice"] for row in rows],
    )


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="path without ending")
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--phrases", type=int, default=3, help="of each voice")
    parser.add_argument("--sums", type=int, default=3, help="of each voice")
    options = parser.parse_args()
    held_out = clips.load(options.work / "clips_held_out.npz")
    write(options.out, held_out, chosen(held_out, options.phrases, options.sums))


if __name__ == "__main__":
    main()

"""Files that are damaged in any way: read as far as they go, or refused in one line.

Every file is a function of a seed. `KAIWA_FUZZ_ROUNDS=N` tries N times as many.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.audio.test_containers import DATA, RATE, attempt, made

from kaiwa import codes_file
from kaiwa.errors import KaiwaError

ROUNDS = int(os.environ.get("KAIWA_FUZZ_ROUNDS", "1"))
#: Files of each kind.
FILES = 60
#: A file of a second that is damaged may seem to be longer, but not for ever.
MOST_SECONDS = 600
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)

KINDS = {
    "wav": lambda: made("WAV"),
    "wav of floats": lambda: made("WAV", "FLOAT"),
    "rf64": lambda: made("RF64"),
    "aiff": lambda: made("AIFF"),
    "caf": lambda: made("CAF"),
    "flac": lambda: made("FLAC"),
    "vorbis": lambda: made("OGG", "VORBIS"),
    "opus": lambda: made("OGG", "OPUS"),
    "mp3": lambda: made("MP3"),
    "two opus files": lambda: (DATA / "chained.opus").read_bytes(),
    "opus and another": lambda: (DATA / "multiplexed.opus").read_bytes(),
    "mp3 in wav": lambda: (DATA / "mp3_inside.wav").read_bytes(),
}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The same with a few changes, most of them where headers are."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        if not found:
            return bytes(found)
        at = rng.randrange(min(len(found), rng.choice((64, 512, len(found)))))
        what = rng.randrange(6)
        if what == 0:
            found[at] = rng.randrange(256)
        elif what == 1:
            size = rng.choice(("<I", ">I", "<H", ">Q"))
            number = struct.pack(size, rng.choice(NUMBERS) & (1 << 8 * struct.calcsize(size)) - 1)
            found[at : at + len(number)] = number
        elif what == 2:
            del found[at:]
        elif what == 3:
            del found[at : at + rng.randrange(1, 200)]
        elif what == 4:
            found[at:at] = rng.randbytes(rng.randrange(1, 100))
        else:
            piece = found[at : at + rng.randrange(1, 4000)]
            to = rng.randrange(len(found))
            found[to:to] = piece
    return bytes(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_sound_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    try:
        whole = KINDS[kind]()
    except Exception as reason:  # a library without this format
        pytest.skip(f"cannot be made here: {reason}")
    path = tmp_path / "sound"
    path.write_bytes(whole)
    assert not isinstance(attempt(path), str)
    read = 0
    for seed in range(FILES * ROUNDS):
        path.write_bytes(damaged(random.Random(f"{kind} {seed}"), whole))
        got = attempt(path)
        if isinstance(got, str):
            assert got.strip(), seed
            assert "\n" not in got, seed
            continue
        pcm, length, warnings = got
        read += 1
        assert np.isfinite(pcm).all(), seed
        assert len(pcm) <= MOST_SECONDS * RATE, seed
        assert length is None or length >= 0, seed
        assert all("\n" not in said for said in warnings), seed
    print(f"{kind}: {read} of {FILES * ROUNDS} were read")
    # Formats with checksums are refused whatever was changed.
    assert read < FILES * ROUNDS


def test_damaged_codes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    codes = np.arange(8 * 25, dtype=np.int32).reshape(8, 25)
    info = codes_file.CodesInfo(
        sample_rate=RATE,
        frame_rate=12.5,
        frame_size=1920,
        num_samples=48_000,
        num_codebooks=8,
        cardinality=2048,
    )
    codes_file.write(path, codes, info)
    whole, read = path.read_bytes(), 0
    for seed in range(5 * FILES * ROUNDS):
        path.write_bytes(damaged(random.Random(seed), whole))
        with contextlib.suppress(KaiwaError):
            got, _ = codes_file.read(path)
            read += 1
            assert got.ndim == 2, seed
            assert got.size <= len(whole), seed
    print(f"codes: {read} of {5 * FILES * ROUNDS} were read")
    assert 0 < read < 5 * FILES * ROUNDS

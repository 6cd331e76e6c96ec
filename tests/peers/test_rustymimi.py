"""Against the rustymimi wheel on a full-size model, in one run.

Only frames 0 to 124: later its attention window differs from the reference (251 keys instead of
250). Fresh objects throughout: its reset leaves state behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaiwa
from kaiwa import _safetensors
from kaiwa.synth import voice, write_mimi

rustymimi = pytest.importorskip(
    "rustymimi", reason="rustymimi has no wheel for this Python or platform, or is not installed"
)

FRAME = 1920
FRAMES = 125
BOOKS = 8


@dataclass(frozen=True)
class Case:
    """One signal through both implementations."""

    path: Path
    mimi: kaiwa.Mimi
    pcm: Any
    theirs_batch: Any
    theirs_step: Any


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A full-size random model, and rustymimi's codes `[K, frames]` of ten seconds of voice."""
    path = write_mimi(tmp_path_factory.mktemp("peer") / "mimi.safetensors", seed=12).weights
    pcm = voice(FRAMES * FRAME / 24_000, seed=34)
    assert len(pcm) == FRAMES * FRAME
    batch = rustymimi.Tokenizer(str(path), num_codebooks=BOOKS).encode(pcm[None, None])
    stepper = rustymimi.Tokenizer(str(path), num_codebooks=BOOKS)
    steps = [stepper.encode_step(piece[None, None]) for piece in pcm.reshape(FRAMES, FRAME)]
    mimi = kaiwa.Mimi.from_pretrained(str(path), num_codebooks=BOOKS)
    return Case(path, mimi, pcm, batch[0], np.concatenate(steps, axis=2)[0])


def compare_codes(case: Case, ours: Any, theirs: Any) -> None:
    """At least 99.9 % equal; where not, the two distances in f64 must be nearly the same."""
    assert ours.shape == theirs.shape == (BOOKS, FRAMES)
    for row in theirs:
        assert len(np.unique(row)) > 40, "the model's codes are not diverse"
    different = ours != theirs
    report = "\n".join(near_ties(case, ours, theirs)) if different.any() else ""
    assert different.mean() <= 1e-3, report
    assert "not a near tie" not in report, report


def near_ties(case: Case, ours: Any, theirs: Any) -> list[str]:
    """For the first difference in each column and group: both squared distances in f64."""
    entries, _, start = _safetensors.read_header(case.path)
    data = np.memmap(case.path, np.uint8, "r")

    def tensor(name: str) -> Any:
        entry = entries[name]
        raw = data[start + entry.begin : start + entry.end]
        return raw.view("<f4").reshape(entry.shape).astype(np.float64)

    latent = case.mimi.encode_to_latent(case.pcm).reshape(-1, FRAMES).astype(np.float64)
    told = []
    for frame in np.flatnonzero((ours != theirs).any(axis=0)):
        for group, first, last in (("first", 0, 1), ("rest", 1, BOOKS)):
            name = f"quantizer.rvq_{group}"
            left = tensor(f"{name}.input_proj.weight")[:, :, 0] @ latent[:, frame]
            for book in range(first, last):
                stem = f"{name}.vq.layers.{book - first}._codebook"
                usage = np.maximum(tensor(f"{stem}.cluster_usage"), 1e-5)
                vectors = tensor(f"{stem}.embedding_sum") / usage[:, None]
                pair = vectors[[ours[book, frame], theirs[book, frame]]]
                distance = ((left - pair) ** 2).sum(axis=1)
                if ours[book, frame] != theirs[book, frame]:
                    gap = abs(distance[0] - distance[1]) / (left**2).sum()
                    verdict = "near tie" if gap < 1e-4 else "not a near tie"
                    told.append(
                        f"frame {frame} codebook {book}: {distance[0]:.9g} and "
                        f"{distance[1]:.9g}, relative gap {gap:.2g}: {verdict}"
                    )
                    break
                left = left - pair[0]
    return told


def test_codes_of_a_whole_signal(case: Case) -> None:
    compare_codes(case, case.mimi.encode(case.pcm), case.theirs_batch)


def test_codes_frame_by_frame(case: Case) -> None:
    stream = case.mimi.stream()
    steps = [stream.encode(piece[None, None]) for piece in case.pcm.reshape(FRAMES, FRAME)]
    compare_codes(case, np.concatenate(steps, axis=2)[0], case.theirs_step)


def compare_audio(ours: Any, theirs: Any) -> None:
    """Within 1e-5 of the peak, and not trivially so."""
    peak = np.abs(theirs).max()
    assert ours.shape == theirs.shape == (FRAMES * FRAME,)
    assert theirs.std() > 0.01
    assert np.abs(ours - theirs).max() <= 1e-5 * peak


def test_audio_of_a_whole_signal(case: Case) -> None:
    tokenizer = rustymimi.Tokenizer(str(case.path), num_codebooks=BOOKS)
    theirs = tokenizer.decode(np.ascontiguousarray(case.theirs_batch[None]))[0, 0]
    ours = case.mimi.decode(case.theirs_batch.astype(np.int32))[0]
    compare_audio(ours, theirs)


def test_audio_frame_by_frame(case: Case) -> None:
    tokenizer = rustymimi.Tokenizer(str(case.path), num_codebooks=BOOKS)
    stream = case.mimi.stream()
    ours, theirs = [], []
    for frame in range(FRAMES):
        column = np.ascontiguousarray(case.theirs_step[None, :, frame : frame + 1])
        theirs.append(tokenizer.decode_step(column)[0, 0])
        ours.append(stream.decode(column.astype(np.int32))[0, 0])
    compare_audio(np.concatenate(ours), np.concatenate(theirs))


def test_the_comparison_can_fail(case: Case) -> None:
    """Another signal gives other codes, and audio that is off by more than the tolerance."""
    other = case.mimi.encode(voice(FRAMES * FRAME / 24_000, seed=35))
    assert (other != case.theirs_batch).mean() > 0.5
    with pytest.raises(AssertionError):
        compare_codes(case, other, case.theirs_batch)

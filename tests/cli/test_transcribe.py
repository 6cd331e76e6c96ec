"""`kaiwa transcribe`: every format, where it is written to, and bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from tests.cli.conftest import Run

from kaiwa import SpeechToText
from kaiwa.terminal import progress
from kaiwa.transcript import FORMATS, segments, write
from kaiwa.words import Word

MODEL = Path(__file__).parents[1] / "data" / "stt_small"
GIVEN = ("--model", MODEL, "--device", "cpu", "--dtype", "float32")

WORDS = [
    Word("hello", 0.08, 0.4),
    Word("there,", 0.48, None),
    Word("my", 0.72, 0.88),
    Word("friend.", 0.88, 1.36),
    Word("A & <B>", 4.0, None),
]


@pytest.fixture(scope="module")
def words() -> list[Word]:
    """What the small model hears in noise: it is random, and so are they."""
    model = SpeechToText.from_pretrained(MODEL, device="cpu", dtype="float32")
    return model.transcribe(noise())


def noise() -> NDArray[np.float32]:
    """Eight seconds of steps of 5 ms."""
    steps = np.random.default_rng(7).uniform(-2, 2, 1600)
    return np.repeat(steps, 120).astype(np.float32)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise(), 24_000, subtype="FLOAT")
    return path


def test_every_format_of_a_file(run: Run, sound: Path, words: list[Word], tmp_path: Path) -> None:
    assert len(words) > 3
    for form in FORMATS:
        outcome = run("transcribe", sound, "--format", form, *GIVEN)
        assert (outcome.code, outcome.out) == (0, write(words, form)), outcome.err
        assert f"{len(words)} words in 8.00 s of audio" in outcome.err
        out = tmp_path / f"out.{form}"
        assert run("transcribe", sound, "--format", form, "--output", out, *GIVEN).code == 0
        assert out.read_text(encoding="utf-8") == write(words, form)
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [Word(**word) for word in told["words"]] == words
    assert told["text"].split() == (tmp_path / "out.text").read_text(encoding="utf-8").split()


def test_the_model_of_the_environment_and_other_rates(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: Callable[..., Any]
) -> None:
    monkeypatch.setenv("KAIWA_TRANSCRIBER", str(MODEL))
    path = tmp_path / "stereo.flac"
    soundfile.write(path, speech(1.0, 44_100, 2), 44_100)
    outcome = run("transcribe", path, "--quiet", "--device", "cpu")
    assert (outcome.code, outcome.err) == (0, "")


def test_progress_is_shown_where_somebody_looks(
    run: Run, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[tuple[int, int]]] = {}

    class Bar:
        def __init__(self, title: str, *, quiet: bool) -> None:
            assert not quiet
            self.seen = shown.setdefault(title, [])

        def __enter__(self) -> Callable[[int, int], None]:
            return lambda done, total: self.seen.append((done, total))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(progress, "share", Bar)
    assert run("transcribe", sound, *GIVEN).code == 0
    assert set(shown) == {"loading", "transcribing"}
    counts = [done for done, _ in shown["transcribing"]]
    assert counts == sorted(counts)
    assert shown["transcribing"][-1] == (100, 100)
    assert len(counts) > 3


@pytest.mark.parametrize(
    ("name", "content", "words_said"),
    [
        ("missing.wav", None, "does not exist"),
        ("text.wav", b"hello", "cannot be read as audio"),
        ("empty.wav", b"", "cannot be read"),
        ("short.wav", b"RIFF\x24\x00\x00\x00WAVE", "read"),
    ],
)
def test_files_that_are_no_audio(
    run: Run, tmp_path: Path, name: str, content: bytes | None, words_said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    outcome = run("transcribe", path, *GIVEN, "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    assert words_said in outcome.error


def test_wrong_models_and_places(run: Run, sound: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(0, np.float32), 24_000)
    for args, said in (
        ((silent, *GIVEN), "no audio"),
        ((sound, "--model", "synth:tiny"), "speaks"),
        ((sound, "--model", "demo"), "speaks"),
        ((sound, "--model", tmp_path / "nowhere"), "nowhere"),
        ((sound, "--model", MODEL, "--tokenizer", tmp_path / "no.model"), "does not exist"),
        ((sound, "--output", sound, *GIVEN), "also"),
        ((sound, "--output", tmp_path, *GIVEN), "folder"),
    ):
        outcome = run("transcribe", *args, "--quiet")
        assert (outcome.code, outcome.out) == (2, "")
        assert said in outcome.error or said == "also"
    outcome = run("transcribe", sound, "--format", "docx")
    assert outcome.code == 2
    assert "docx" in outcome.err
    assert sys.stdout is not None


def test_subtitles_are_cut_at_pauses_and_times_do_not_overlap() -> None:
    made = segments(WORDS)
    assert [one.text for one in made] == ["hello there, my friend.", "A & <B>"]
    assert [(one.start, one.stop) for one in made] == [(0.08, 1.36), (4.0, 4.4)]
    assert write(WORDS, "srt") == (
        "1\n00:00:00,080 --> 00:00:01,360\nhello there, my friend.\n\n"
        "2\n00:00:04,000 --> 00:00:04,400\nA & <B>\n"
    )
    assert write(WORDS, "vtt") == (
        "WEBVTT\n\n00:00:00.080 --> 00:00:01.360\nhello there, my friend.\n\n"
        "00:00:04.000 --> 00:00:04.400\nA &amp; &lt;B&gt;\n"
    )
    assert write([], "text") == ""
    assert write([], "vtt") == "WEBVTT\n"
    assert json.loads(write([], "json")) == {"text": "", "words": []}
    long = [Word("word", n * 0.3, n * 0.3 + 0.25) for n in range(12_100)]
    cut = segments(long)
    assert all(len(one.text) <= 42 for one in cut)
    assert all(a.stop <= b.start for a, b in pairwise(cut))
    assert sum(len(one.words) for one in cut) == len(long)
    assert write(long, "srt").splitlines()[-2].startswith("01:00:")

"""Text and times of frames: from files to phrases and numbers; places for labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from kaiwa.errors import InputError
from kaiwa.plotting import glyphs, labels, steps, text, time_axis
from kaiwa.plotting.text import Phrase, Piece


def written(folder: Path, content: str) -> Path:
    path = folder / "lines.jsonl"
    path.write_text(content, encoding="utf-8")
    return path


def test_pieces_become_phrases(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"t": 0.32, "text": " hel"}\n{"t": 0.4, "text": "lo"}\n\n{"t": 0.48, "text": " you"}\n'
        '{"t": 3.0, "token": 412}\n{"t": 3.08, "text": "  "}\n',
    )
    assert text.phrases(text.read(path)) == [Phrase(0.32, "hello you"), Phrase(3.0, "412")]


def test_a_long_phrase_ends_with_a_word() -> None:
    words = [Piece(0.1 * i, f" word{i}") for i in range(12)]
    found = text.phrases(words)
    assert len(found) > 1
    assert all(len(phrase.text) < text.LONG + 7 for phrase in found)
    assert " ".join(phrase.text for phrase in found).split() == [f"word{i}" for i in range(12)]


def test_times(tmp_path: Path) -> None:
    found = steps.read(written(tmp_path, '{"t": 0.08, "step_ms": 7}\n{"t": 0.0, "step_ms": 9.5}\n'))
    assert (list(found.t), list(found.ms), found.what) == ([0.0, 0.08], [9.5, 7.0], "step time")
    found = steps.read(written(tmp_path, '{"t": 0, "latency_ms": 30}\n'))
    assert found.what == "latency"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]\n", "line 1 of .* is no JSON object"),
        ('{"t": 0, "text": "a"}\nnot json\n', "line 2 of .* is no JSON object"),
        ('{"t": 0}\n', "neither"),
        ('{"t": -1, "text": "a"}\n', "has to be 0 or more"),
        ('{"t": NaN, "text": "a"}\n', "has to be 0 or more"),
        ('{"t": true, "text": "a"}\n', "has to be 0 or more"),
        ('{"text": "a"}\n', '"t" is None'),
        ("{" * 70_000, "is no JSON object"),
    ],
)
def test_lines_that_are_no_text(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        text.read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no times"),
        ('{"t": 0, "text": "a"}\n', "kaiwa run --timing"),
        ('{"t": 0, "step_ms": 1}\n{"t": 1, "latency_ms": 1}\n', 'has no "step_ms"'),
        ('{"t": 0, "step_ms": "1"}\n', "has to be 0 or more"),
    ],
)
def test_lines_that_are_no_times(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        steps.read(written(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        text.read(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        text.read(tmp_path / "bytes")


def test_labels_do_not_overlap() -> None:
    starts = [0.0, 1.0, 1.5, 6.0, 9.5]
    places, rows = labels.place(starts, [2.0] * 5, 10.0, 2)
    assert rows == 2
    assert [(p.index, p.row, p.x, p.before) for p in places] == [
        (0, 0, 0.0, False),
        (1, 1, 1.0, False),
        # The third has no room in two rows; the last stands before its time.
        (3, 0, 6.0, False),
        (4, 1, 7.5, True),
    ]
    assert labels.place([0.0], [11.0], 10.0, 2) == ([], 0)


def test_the_width_of_a_text_is_that_of_its_outlines() -> None:
    for words in ("seven", "W i l d", "eight one seven nine"):
        outlines = TextPath((0, 0), words, 9, prop=FontProperties("DejaVu Sans")).get_extents()
        assert glyphs.width(words, 9) == pytest.approx(outlines.width, abs=2)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (36_061, "10:01:01")]
)
def test_clock(seconds: float, words: str) -> None:
    assert time_axis.clock(seconds) == words

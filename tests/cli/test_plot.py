"""`kaiwa plot` and `--plot`: from files to pictures, and what is said about wrong ones."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kaiwa.cli.main import main
from kaiwa.cli.parser import build
from kaiwa.cli.plot import read
from kaiwa.plotting.call import Call

Run = Callable[..., Any]


@pytest.fixture
def stereo(tmp_path: Path) -> Path:
    """Three seconds at 11025 Hz: the caller speaks in the first, the model in the last."""
    pcm = np.zeros((33_075, 2), np.float32)
    tone = 0.4 * np.sin(np.arange(11_025) / 5)
    pcm[:11_025, 0], pcm[22_050:, 1] = tone, tone
    path = tmp_path / "call.wav"
    soundfile.write(path, pcm, 11_025)
    return path


def gathered(*args: object) -> Call:
    """What would be drawn."""
    return read(build().parse_args(["plot", *map(str, args), "--quiet"]))


def test_a_png_beside_the_call_or_an_svg(run: Run, stereo: Path) -> None:
    outcome = run("plot", stereo)
    assert outcome.code == 0, outcome.err
    assert stereo.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "caller: 1 turn," in outcome.err
    svg = stereo.with_name("call.svg")
    assert run("plot", stereo, svg, "--quiet").err == ""
    assert ET.parse(svg).getroot().tag.endswith("svg")


def test_left_is_the_caller_right_the_model(stereo: Path) -> None:
    caller, model = gathered(stereo).sides
    assert (caller.who, model.who) == ("caller", "model")
    assert np.array(caller.turns()) == pytest.approx(np.array([(0.0, 1.0)]), abs=0.02)
    assert np.array(model.turns()) == pytest.approx(np.array([(2.0, 3.0)]), abs=0.02)


def test_two_files_of_different_rates_and_codes(run: Run, small: Path, wav: Path) -> None:
    codes = wav.with_suffix(".codes")
    assert run("encode", wav, codes, "--model", small).code == 0
    call = gathered(wav, "--caller", codes, "--codes", "--model", small)
    caller, model = call.sides
    assert (caller.who, caller.sound, model.who) == ("caller", None, "model")
    assert caller.codes is not None
    assert model.codes is not None
    assert model.codes.values.shape == (8, 19)
    assert np.array_equal(caller.codes.values, model.codes.values), "as kaiwa encode makes them"
    assert run("plot", codes, "--quiet").code == 0
    (alone,) = gathered(wav).sides
    assert alone.who == "recording"


def test_a_part_of_a_call(stereo: Path, small: Path) -> None:
    whole = gathered(stereo, "--codes", "--model", small)
    call = gathered(stereo, "--codes", "--model", small, "--start", 2, "--seconds", 0.5)
    caller, model = call.sides
    assert (call.begin, call.whole) == (2.0, False)
    assert call.end == pytest.approx(2.56)
    assert model.sound is not None
    assert (model.sound.begin, model.sound.seconds) == pytest.approx((2.0, 0.5), abs=1e-3)
    assert caller.turns() == []
    for part, all_of_it in zip(call.sides, whole.sides, strict=True):
        assert part.codes is not None
        assert all_of_it.codes is not None
        # Codes depend on what came before, so they are those of the whole call.
        assert np.array_equal(part.codes.values, all_of_it.codes.values[:, 25:32])


def test_text_and_times_of_a_run(run: Run, stereo: Path, tmp_path: Path) -> None:
    out, said, times = (tmp_path / name for name in ("o.wav", "o.jsonl", "t.jsonl"))
    files = ("--text", said, "--timing", times)
    assert run("run", stereo, out, "--model", "demo", *files, "--seed", 1).code == 0
    lines = [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines()]
    assert [line["t"] for line in lines] == pytest.approx([0.08 * n for n in range(38)])
    assert all(line["step_ms"] > 0 for line in lines)
    call = gathered(out, *files)
    assert call.steps is not None
    assert (len(call.steps.ms), call.steps.what) == (38, "step time")
    assert call.pieces, "the demo model says hello"
    outcome = run("plot", out, tmp_path / "p.png", *files)
    assert outcome.code == 0, outcome.err
    assert "step time p50" in outcome.err
    for first, second in ((said, said), (said, out), (said, stereo)):
        named = ("--model", "demo", "--text", first, "--timing", second)
        again = run("run", stereo, out, *named)
        assert again.code == 2
        assert "another file for the times" in again.error


def written(folder: Path, kind: str) -> Path:
    """A file that cannot be drawn."""
    path = folder / "bad.wav"
    if kind == "nan":
        soundfile.write(path, np.full(100, np.nan, np.float32), 24_000, subtype="FLOAT")
    elif kind == "empty recording":
        soundfile.write(path, np.zeros(0, np.float32), 24_000)
    elif kind == "empty file":
        path.touch()
    elif kind == "six channels":
        soundfile.write(path, np.zeros((100, 6)), 24_000)
    elif kind == "text":
        path.write_text("hello", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "not finite at sample 0"),
        ("empty recording", "holds no audio"),
        ("empty file", "cannot be read as audio"),
        ("six channels", "a call has two sides"),
        ("text", "cannot be read as audio"),
        ("none", "does not exist"),
    ],
)
def test_files_that_cannot_be_drawn(run: Run, tmp_path: Path, kind: str, words: str) -> None:
    outcome = run("plot", written(tmp_path, kind))
    assert outcome.code == 2
    assert words in outcome.error
    assert not (tmp_path / "bad.png").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("call.wav", "o.gif"), "end it in .png or .svg"),
        (("call.wav", "none/o.png"), "does not exist"),
        (("call.wav", "--caller", "call.wav"), "leave --caller out"),
        (("call.wav", "--start", 3), "is 3.00 s long"),
        (("call.wav", "--text", "call.wav"), "is no text"),
        (("call.wav", "--timing", "late.jsonl"), "of the same call"),
        (("-",), "name the picture too"),
    ],
)
def test_wrong_arguments(
    run: Run, stereo: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[Any, ...], words: str
) -> None:
    monkeypatch.chdir(stereo.parent)
    Path("late.jsonl").write_text('{"t": 60.0, "step_ms": 1.0}\n', encoding="utf-8")
    outcome = run("plot", *args)
    assert outcome.code == 2
    assert words in outcome.error


@pytest.mark.parametrize(
    "args",
    [("plot", "x.wav"), *(("bench", kind, "--plot", "x.png") for kind in ("mimi", "lm", "serve"))],
)
def test_without_matplotlib(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = run(*args)
    assert outcome.code == 2
    assert "pip install 'kaiwa[plot]'" in outcome.error


def test_a_bench_draws_its_figures(run: Run, small: Path, tmp_path: Path) -> None:
    quick = ("--slots", 2, "--frames", 2, "--rounds", 1, "--file-seconds", 1, "--peers", "none")
    picture = tmp_path / "bench.svg"
    outcome = run("bench", "mimi", "--model", small, *quick, "--json", "--plot", picture)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["streams"]
    assert ET.parse(picture).getroot().tag.endswith("svg")
    # The ending is looked at before anything is measured.
    assert "end it in" in run("bench", "mimi", "--plot", tmp_path / "bench.gif").error


def test_it_stands_in_the_parser() -> None:
    with pytest.raises(SystemExit):
        build().parse_args(["plot"])
    assert main(["plot", "--help"]) == 0

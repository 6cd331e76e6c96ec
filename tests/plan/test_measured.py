"""Times of a step from the report of a run on a GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kaiwa import cli
from kaiwa.errors import InputError
from kaiwa.plan import measured
from kaiwa.plan.model import MODELS

SEVEN = MODELS["7b"]


def row(form: str, slots: int, window: str, ms: float | None) -> dict[str, Any]:
    """A row of the stage lm; without a time it failed."""
    found: dict[str, Any] = {"format": form, "slots": slots, "window": window}
    return found | ({"error": "out of memory"} if ms is None else {"step_ms": {"median": ms}})


def report(**changes: Any) -> dict[str, Any]:
    """As scripts/gpu/run writes it."""
    found = {
        "asked": "cuda",
        "sizes": "full",
        "errors": {},
        "device": {"card": {"name": "NVIDIA H100"}},
        "lm": {
            "rows": [
                row("q8", 1, "short", 6.0),
                row("q8", 1, "full", 7.0),
                row("q8", 9, "full", 15.0),
                row("q8", 32, "full", None),
                row("bf16", 1, "full", 11.0),
            ]
        },
        "mimi": {
            "rows": [
                {"slots": 1, "both_ms": {"median": 3.0}},
                {"slots": 17, "both_ms": {"median": 5.0}},
            ]
        },
    }
    return {**found, **changes}


def write(folder: Path, content: object) -> str:
    path = folder / "gpu.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_the_full_window_and_the_codec_count(tmp_path: Path) -> None:
    times = measured.read(write(tmp_path, report()), SEVEN, "int8")
    # 15 ms with nine conversations, and the codec's 4 on the line between 3 and 5.
    assert dict(times.points) == pytest.approx({1: 0.010, 9: 0.019})
    assert times.measured
    assert times.source == "gpu.json: NVIDIA H100, q8, window full"


def test_a_plan_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, report())
    words = ["plan", "--device", "h100", "--calls", "100", "--json", "--measured", path]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step_times"] == "measured: gpu.json: NVIDIA H100, q8, window full"
    assert found["step_ms"]["one_call"] == 10
    # Eight calls more take 9 ms more; 60 ms are the most with the spread.
    assert found["slots_by"]["step_time"] == 1 + math.floor((60 / 1.1 - 10) / (9 / 8))
    assert cli.main([*words, "--step", "1:10,8:20"]) == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "weights", "words"),
    [
        ({}, "int4", "0 usable rows of format q4"),
        ({}, "bf16", "1 usable rows of format bf16"),
        ({"lm": {"rows": []}, "errors": {"lm": "it hung"}}, "int8", "the stage lm failed: it hung"),
        ({"mimi": None}, "int8", "0 usable rows of the codec"),
        ({"lm": [1]}, "int8", "0 usable rows of format q8"),
        ({"sizes": "tiny"}, "int8", "small models, to try the kit itself"),
        ({"lm": {"rows": [row("q8", 1, "full", -1.0), row("q8", 2, "full", 3.0)]}}, "int8", "rows"),
        ({"mimi": {"rows": [{"both_ms": {}}]}}, "int8", "a row of mimi is damaged"),
    ],
)
def test_a_report_without_the_rows_is_refused(
    tmp_path: Path, changes: dict[str, Any], weights: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        measured.read(write(tmp_path, report(**changes)), SEVEN, weights)


def test_a_report_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with the model 7b, not with 1b"):
        measured.read(write(tmp_path, report()), MODELS["1b"], "int8")


@pytest.mark.parametrize("content", [[], {}, 5, {"rows": []}])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError, match="no report of scripts/gpu/run"):
        measured.read(write(tmp_path, content), SEVEN, "int8")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as JSON"):
        measured.read(str(tmp_path / "missing.json"), SEVEN, "int8")
    (tmp_path / "gpu.json").write_bytes(b"\xff{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        measured.read(str(tmp_path / "gpu.json"), SEVEN, "int8")

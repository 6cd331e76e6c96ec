"""The measuring kit for GPUs, tried on a processor: a report that is whole, and one that says what
is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools.gpu import plan, record, report, run, stages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of a run of every stage but the tests, which run anyway."""
    out = tmp_path_factory.mktemp("kit")
    only = [stage.name for stage in plan.STAGES if stage.work != "tests"]
    command = [str(ROOT / "scripts/gpu/run"), "--device", "candle-cpu", "--out", str(out)]
    done = subprocess.run(
        [*command, "--only", ",".join(only)],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, json.loads((out / "gpu.json").read_text())


def test_every_stage_fills_its_part(measured: tuple[Path, dict[str, Any]]) -> None:
    out, result = measured
    assert result["errors"] == {}
    rows = {(r["format"], r["slots"], r["window"]): r for r in result["lm"]["rows"]}
    sizes = plan.SIZES["tiny"]
    assert len(rows) == 3 * len(sizes.slots) * 2
    assert all(row["step_ms"]["count"] == sizes.steps for row in rows.values())
    assert all(row["tokens_equal"] and row["bits_equal"] for row in result["independence"]["rows"])
    assert result["memory"]["state_bytes"] == result["memory"]["state_bytes_after"] > 0
    assert [row["slots"] for row in result["mimi"]["rows"]] == list(sizes.slots)
    (calls,) = result["engine"]["rows"]
    assert calls["frames_answered"] + calls["dropped_input"] > 0
    text = (out / "gpu.md").read_text()
    assert text.startswith("Measured on no GPU: candle-cpu")
    assert "## tests\n\nNot run." in text


def test_a_stage_that_fails_or_hangs_leaves_what_it_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = (plan.Stage("device", 60), plan.Stage("lm", 1.0), plan.Stage("peer", 60))
    (tmp_path / "peer.json").write_text("{}")
    assert run.run("candle-cpu", tmp_path, "tiny", [], None, short) == 1
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert list(result["errors"]) == ["lm"]
    assert "ended after its 1 seconds" in result["errors"]["lm"]
    assert result["peer"]["note"].startswith("not measured")
    assert "ended after its 1 seconds" in (tmp_path / "gpu.md").read_text()
    assert "lm" in capsys.readouterr().out


def test_nothing_runs_after_a_device_that_cannot_be_opened(tmp_path: Path) -> None:
    assert run.run("cuda:77", tmp_path, "tiny", [], None) == 1
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert list(result["errors"]) == ["device"]
    assert "cuda:77" in result["errors"]["device"]
    assert "lm" not in result


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "lm.json"
    kept = record.Record(path)
    for number in range(50):
        kept.row("rows", number=number)
        assert len(record.read(path)["rows"]) == number + 1
    path.write_text('{"rows": [')
    assert record.read(path) == {}


def test_a_run_ends_after_eight_minutes_whatever_its_stages_take(tmp_path: Path) -> None:
    assert plan.SECONDS <= 8 * 60
    stages = (plan.Stage("lm", 60), plan.Stage("mimi", 60))
    assert run.run("candle-cpu", tmp_path, "tiny", [], None, stages, seconds=1.0) == 1
    errors = json.loads((tmp_path / "gpu.json").read_text())["errors"]
    assert "ended after its 1 seconds" in errors["lm"]
    assert "no time was left" in errors["mimi"]


def test_both_kernels_are_measured_and_both_are_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage processes are told which kernels; what they do with it needs a card."""
    told: list[tuple[str, str]] = []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            told.append((command[4], env["KAIWA_CUDA"]))

        def wait(self, timeout: float) -> int:
            return 0

    monkeypatch.setattr(run, "commit", lambda: "c")
    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run.run("cuda", tmp_path, "full", [], None) == 0
    works = {stage.name: stage.work for stage in plan.STAGES}
    assert set(works.values()) == set(stages.ALL)
    for work in ("tests", "lm", "independence", "engine", "memory", "profile"):
        both = {kernels for name, kernels in told if works[name] == work}
        assert both == {"candle", "own"}, work
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {"lm", "lm_own"} <= set(result)
    assert "## lm_own" in (tmp_path / "gpu.md").read_text()


def test_goals_are_shown_beside_what_was_measured() -> None:
    times = {"median": 11.5, "p95": 12.0, "p99": 12.5}
    row = {"format": "bf16", "slots": 1, "window": "short", "step_ms": times}
    result = {"asked": "cuda", "began": "today", "commit": "c", "sizes": "full", "errors": {}}
    text = report.markdown({**result, "lm": {"rows": [row]}})
    assert "| bf16 | 1 | short | 11.5 | 12.0 |" in text
    assert "| q8 | 32 | full | not measured | 28.0 |" in text


def test_reference_cases_are_run_on_the_device_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "TEST_FILES", ("test_golden.py",))
    kept = record.Record(tmp_path / "tests.json")
    stages.tests(stages.Ask("candle-cpu", plan.SIZES["tiny"]), kept)
    assert kept.values["counts"]["passed"] >= 5
    with pytest.raises(RuntimeError, match="test_golden"):
        stages.tests(stages.Ask("cuda:77", plan.SIZES["tiny"]), kept)
    assert kept.values["failures"]

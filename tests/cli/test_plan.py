"""`kaiwa plan` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaiwa import cli
from kaiwa.synth import write_moshi


def test_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--device", "h100", "--calls", "1000"]) == 0
    said = capsys.readouterr().out
    assert "not measured: estimated from the device's sheet" in said
    assert "replicas                       27" in said
    assert 'KAIWA_SLOTS: "39"' in said
    assert said.endswith("KAIWA_UPDATE_ORDER=start-first\n")
    assert "KAIWA_REPLICAS=26\n" in said


def test_a_plan_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "l40s", "--calls", "100", "--step", "1:20,32:52", "--json"]
    assert cli.main(["plan", *words, "--max-seconds", "60", "--spare", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step_times"] == "measured: given"
    assert found["slots_by"]["step_time"] == 34
    assert (found["slots_a_device"], found["replicas"]) == (34, 5)
    assert "stop_grace_period: 90s" in found["stack"]


def test_a_plan_for_a_model_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_moshi(tmp_path / "m", size="tiny", mimi=True, tokenizer=True)
    words = ["plan", "--device", "l4", "--calls", "5", "--model", str(tmp_path / "m"), "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert "0.00 G parameters" in found["model"]
    # 128 steps of history would be more than the window of 64.
    assert found["state_gb_a_call"] == pytest.approx(0.017, rel=0.01)


def test_a_plan_for_a_model_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--device", "H100", "--calls", "5", "--json", "--model"]
    assert cli.main([*words, "kyutai/moshiko-mlx-q4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "7b, 7.69 G parameters, int4"
    assert found["deploy"]["KAIWA_MODEL"] == "kyutai/moshiko-mlx-q4"
    assert cli.main([*words, "kyutai/moshiko-mlx-q4", "--weights", "bf16"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].endswith("bf16")
    assert cli.main([*words, "demo"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].startswith("demo, 0.01 G parameters")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "h100", "--calls", "1", "--model", "nowhere"], "use 7b, 1b, 300m"),
        (["--device", "h100", "--calls", "1", "--step", "8"], "give conversations and millis"),
        (["--device", "h100", "--calls", "1", "--max-seconds", "-1"], "use seconds, 0 for no"),
        (["--device", "cpu-2core", "--calls", "1"], "not even one conversation would keep up"),
        (["--device", "h100", "--calls", "0"], "0 is not 1 or more"),
        (["--device", "abacus", "--calls", "1"], "invalid choice: 'abacus'"),
    ],
)
def test_what_cannot_be_planned(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1

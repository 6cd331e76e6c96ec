"""Prometheus' rules: what promtool makes of them, and that each alert has its page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs the program promtool (Debian: apt-get install prometheus)",
)
@pytest.mark.parametrize(
    "words", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")]
)
def test_promtool_is_content(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("amtool") is None,
    reason="needs the programs promtool and amtool (Debian: prometheus, prometheus-alertmanager)",
)
@pytest.mark.parametrize(
    "words",
    [
        ("promtool", "check", "config", "prometheus/prometheus.yml"),
        ("amtool", "check-config", "alertmanager/alertmanager.yml"),
    ],
    ids=["prometheus", "alertmanager"],
)
def test_configurations_are_valid(words: tuple[str, ...]) -> None:
    done = subprocess.run(words, cwd=ROOT / "deploy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("amtool") is None, reason="needs the program amtool")
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (("alertname=KaiwaWatchdog", "severity=none"), "watchdog"),
        (("alertname=KaiwaEdgeDown", "severity=critical"), "urgent"),
        (("alertname=KaiwaNearlyFull", "severity=warning"), "nobody"),
    ],
)
def test_who_is_told(labels: tuple[str, ...], receiver: str) -> None:
    words = ["amtool", "config", "routes", "test", "--config.file=alertmanager/alertmanager.yml"]
    done = subprocess.run(
        [*words, *labels], cwd=ROOT / "deploy", capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == receiver, done.stdout + done.stderr


def test_each_alert_is_tried_and_has_a_section_in_the_runbook() -> None:
    names = [rule["alert"] for rule in ALERTS]
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert fired == set(names)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (Kaiwa\w+)$", page, re.M)
    assert sections == names
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical", "none")


def test_every_metric_of_the_rules_exists() -> None:
    told = set(
        re.findall(r"^\| `(kaiwa_\w+)`", (ROOT / "docs" / "metrics.md").read_text("utf-8"), re.M)
    )
    text = (FOLDER / "rules.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\bkaiwa_\w+", text))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= told

"""docs/gpu.md says what was measured on a GPU, and says so where nothing was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.gpu import page

CARD = {"name": "NVIDIA H100", "driver": "580", "capability": "9.0", "memory_total_mib": "81559"}
RUN = {
    "asked": "cuda",
    "began": "today",
    "commit": "0123456789abcdef",
    "sizes": "full",
    "errors": {},
    "device": {"card": CARD, "build": {"cuda": "sm_90, compute_90"}},
}


def test_the_page_is_current() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.rendered(text, page.section()), "run python -m tools.gpu page"


def test_without_a_report_the_page_says_that_nothing_was_run(tmp_path: Path) -> None:
    assert "Nothing has been run on a GPU yet" in page.section(tmp_path / "gpu.json")


def test_a_report_becomes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "gpu.md")
    monkeypatch.setattr(page, "REPORT", tmp_path / "docs.json")
    page.PAGE.write_text("a\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nb\n")
    given = tmp_path / "gpu.json"
    given.write_text(json.dumps(RUN))
    page.write(given)
    text = page.PAGE.read_text()
    assert "old" not in text
    assert "Measured on NVIDIA H100" in text
    assert "Built for sm_90, compute_90." in text
    assert "\n### lm\n\nNot run.\n" in text
    assert text.startswith("a\n")
    assert text.endswith("b\n")
    assert json.loads(page.REPORT.read_text()) == RUN
    page.write(page.REPORT)
    assert page.PAGE.read_text() == text


@pytest.mark.parametrize("content", [[], {"lm": {}}, {**RUN, "asked": "candle-cpu"}])
def test_what_was_not_made_on_a_gpu_is_no_measurement(tmp_path: Path, content: object) -> None:
    given = tmp_path / "gpu.json"
    given.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no report|not on a GPU"):
        page.section(given)

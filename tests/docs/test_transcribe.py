"""The examples of docs/transcribe.md: on random weights, and against a running server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.server.live import running
from tests.server.test_asr import noise, settings

PAGE = Path(__file__).parents[2] / "docs" / "transcribe.md"


def blocks(heading: str) -> list[str]:
    """The Python blocks below a heading."""
    parts = re.split(r"^#+ (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    text = dict(zip(parts[::2], parts[1::2], strict=True))[heading]
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"{heading} has no example"
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("speech.wav", noise(31, 5), 24_000, subtype="FLOAT")


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("Python"):
        exec(compile(block, "transcribe.md", "exec"), names)
    out = names["out"]
    assert getattr(out, "heads").shape == (2, 4)  # noqa: B009
    assert capsys.readouterr().out


@pytest.mark.parametrize("heading", ["`POST /v1/audio/transcriptions`", "`GET /api/asr-streaming`"])
def test_the_clients_of_the_page_are_answered(
    heading: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(**settings(slots=1)) as live:
        for block in blocks(heading):
            text = block.replace("127.0.0.1:8998", f"127.0.0.1:{live.port}")
            exec(compile(text, "transcribe.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    starts = [float(number) for number in re.findall(r"\d+\.\d+", said)]
    assert len(starts) > 2
    assert max(starts) < 5.0
    assert np.all(np.diff(starts) >= 0)

"""The notebooks of examples/ run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def cells(name: str) -> list[dict[str, Any]]:
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = notebook["cells"]
    return found


def test_there_is_one_for_each_user() -> None:
    assert NOTEBOOKS == ["embed.ipynb", "many_calls.ipynb", "swarm.ipynb"]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs that a notebook started and did not get to stop end with the test."""
    started: list[subprocess.Popen[Any]] = []

    class Child(subprocess.Popen[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Child)
    yield
    for child in started:
        child.kill()
        child.wait()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("children")
@pytest.mark.parametrize("name", NOTEBOOKS)
async def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Jupyter runs it: all cells in one namespace, `await` allowed at the top."""
    shutil.copy(EXAMPLES / "question.flac", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(name):
        if cell["cell_type"] == "code":
            where = f"{name}[{cell['id']}]"
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile("".join(cell["source"]), where, "exec", flags)
            running = eval(code, names)
            if inspect.isawaitable(running):
                await running


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_kept_without_outputs(name: str) -> None:
    found = cells(name)
    ids = [cell["id"] for cell in found]
    assert len(set(ids)) == len(ids)
    for cell in found:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name: str) -> None:
    for cell in cells(name):
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
                assert (EXAMPLES / target).exists(), target

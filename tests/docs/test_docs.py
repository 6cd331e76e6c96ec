"""Documentation that a machine can check: generated pages, and examples that run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kaiwa.cli import reference
from kaiwa.synth import voice, write_mimi

ROOT = Path(__file__).parents[2]

PAGES = ["README.md", "docs/python.md"]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_command_reference_is_current() -> None:
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == reference.markdown(), (
        "regenerate it: python -m kaiwa.cli.reference > docs/cli.md"
    )


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order, in a folder with `mimi.safetensors` and `speech.wav`."""
    write_mimi(tmp_path, size="small")
    next(tmp_path.glob("tokenizer-*")).rename(tmp_path / "mimi.safetensors")
    soundfile.write(tmp_path / "speech.wav", voice(2.0), 24_000)
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert found, f"{page} has no example"
    names: dict[str, object] = {"np": np}
    for block in found:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/benchmarks.md",
        "docs/cli.md",
        "docs/python.md",
        "docs/replicas.md",
        "docs/scale.md",
    ],
)
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_commands_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\$ )?kaiwa (\w+)", text, re.MULTILINE))
    assert {"encode", "decode"} <= named
    known = set(re.findall(r"^\| `(\w+)(?: \((\w+)\))?` \|", reference.markdown(), re.MULTILINE))
    assert named <= {name for names in known for name in names}

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
    ("page", "some"),
    [
        ("README.md", {"serve", "run", "encode", "decode"}),
        ("docs/formats.md", {"info", "convert"}),
        ("docs/operations.md", {"key"}),
        ("docs/replicas.md", {"serve"}),
    ],
)
def test_commands_in_a_page_exist(page: str, some: set[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\$ )?kaiwa (\w+)", text, re.MULTILINE))
    named |= set(re.findall(r"`kaiwa (\w+)[^`]*`", text))
    assert some <= named
    # A heading may name a command's other name behind it.
    known = set(re.findall(r"^## kaiwa (\w+)", reference.markdown(), re.MULTILINE))
    assert named <= known, named - known


def test_programs_named_in_operations_exist() -> None:
    """Scripts, files and services that the runbook tells people to use."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    verbs = set(re.findall(r"\./deploy\.sh (\w+)", text))
    assert {"build", "doctor", "up", "status", "update", "rollback"} <= verbs
    deploy = (ROOT / "deploy.sh").read_text(encoding="utf-8")
    for verb in verbs:
        assert re.search(rf"^\s*{verb}(\)|\|)|\|\s*{verb}\)", deploy, re.MULTILINE), verb
    paths = set(
        re.findall(r"`((?:deploy|tools|tests|scripts)/[\w./-]+|[\w-]+\.(?:yml|sh|cuda))`", text)
    )
    assert {"deploy/prometheus/rules.yml", "swarm-config.yml"} <= paths
    for path in paths:
        assert (ROOT / path).exists() or list((ROOT / "deploy").rglob(path)), path
    alerts = (ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8")
    explained = set(re.findall(r"^### (Kaiwa\w+)$", text, re.MULTILINE))
    assert explained == set(re.findall(r"alert: (Kaiwa\w+)", alerts))


def test_the_front_page_shows_the_call_of_its_picture() -> None:
    said = (ROOT / "docs/images/transcript.txt").read_text(encoding="utf-8")
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/images/page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/engine.md"])
def test_modules_and_files_named_in_a_page_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    core = ROOT / "rust/kaiwa-core/src"
    modules = re.findall(r"`([a-z_]+(?:::[a-z_]+)+)(?:::[A-Z]\w*)?`", text)
    for module in modules:
        path = core / module.replace("::", "/")
        assert path.is_dir() or path.with_suffix(".rs").exists(), module
    files = re.findall(r"`((?:rust|python|tests|deploy|scripts|tools)/[\w./-]+)`", text)
    assert files
    coming = {"rust/kaiwa-core/src/pipeline/transcribe.rs"}
    for file in files:
        assert "NAME" in file or file in coming or (ROOT / file).exists(), file

"""Comments cite sections of docs/spec; every section that is cited exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ROOT

SPEC = ROOT / "docs" / "spec"
FOLDERS = ("rust", "python", "tests", "tools", "training", "benches", "docs")
ENDINGS = (".rs", ".py", ".pyi", ".js", ".md", ".toml", ".ipynb")
BUILT = {"target", "corpus", "artifacts", "__pycache__", "node_modules", "work"}

NUMBER = r"\d+(?:\.\d+)*"
CITATION = re.compile(
    rf"docs/spec/(\w+)\.md\)?(?:\s+((?:section\s+)?{NUMBER}(?:(?:,|\s+and|\s+to)\s+{NUMBER}\b)*))?"
)
#: Other ways to name a specification, which nothing would check.
STRAY = re.compile(
    r"\bspec\s+\"?(?:mimi|moshi|checkpoints|protocols)\b"
    r"|\bspec\s+\d+\.\d"
    r"|moshi-lm\.md"
    r"|(?<!docs/spec/)\b(?:mimi|moshi|checkpoints|protocols)\.md\s+\d",
    re.IGNORECASE,
)


def sections(page: str) -> set[str]:
    """Numbers of the headings of a specification."""
    text = (SPEC / f"{page}.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^#+ ({NUMBER})\b", text, re.MULTILINE))


def unwrapped(text: str) -> str:
    """Text whose comments have no line breaks, so that a citation may go over two lines."""
    return re.sub(r"\n[ \t]*(?://[/!]?|#:?)?[ \t]*", " ", text)


def wrong(text: str) -> list[str]:
    """Citations in a text that lead nowhere, and those in another form."""
    text = unwrapped(text)
    found = []
    for cited in CITATION.finditer(text):
        page, numbers = cited[1], cited[2] or ""
        known = sections(page) if (SPEC / f"{page}.md").exists() else None
        if known is None or set(re.findall(NUMBER, numbers)) - known:
            found.append(cited[0])
    return found + [stray[0] for stray in STRAY.finditer(text)]


def sources() -> Iterator[Path]:
    """Every file that may cite, but for the specifications and the tests of this."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            inside = path.relative_to(ROOT)
            if path.suffix not in ENDINGS or BUILT & set(inside.parts) or not path.is_file():
                continue
            if SPEC not in path.parents and path.parent != Path(__file__).parent:
                yield path


def test_every_cited_section_exists() -> None:
    count = 0
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert wrong(text) == [], path
        count += sum(cited[2] is not None for cited in CITATION.finditer(unwrapped(text)))
    assert count > 60


@pytest.mark.parametrize(
    "text",
    [
        "//! The quantiser (docs/spec/mimi.md 4 and 4.7).",
        "# docs/spec/none.md 1",
        "/// Rings (docs/spec/moshi.md 3.4 to\n/// 3.99).",
        "//! (docs/spec/checkpoints.md 2, 4, 55)",
        "//! Attention (spec mimi.md 3.1).",
        "//! Conditions (spec\n//! moshi-lm.md 9.2).",
        "# as in checkpoints.md 8",
        "// (spec 9.5)",
    ],
)
def test_a_wrong_citation_is_noticed(text: str) -> None:
    assert wrong(text)


@pytest.mark.parametrize(
    "text",
    [
        "//! The quantiser (docs/spec/mimi.md 4).",
        "/// Rings (docs/spec/moshi.md 3.4 to\n/// 3.6). 12.5 frames a second.",
        '"""docs/spec/checkpoints.md"""',
        "see [docs/spec/protocols.md](docs/spec/protocols.md) 1.7 and 5.10.",
        "let spec = spec.mimi();",
    ],
)
def test_a_right_citation_is_not(text: str) -> None:
    assert wrong(text) == []

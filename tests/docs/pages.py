"""The pages of the documentation: their links, their headings, and where links lead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Every page that is written for readers.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/*.md",
        "training/*.md",
        "tests/data/*.md",
        "rust/fuzz/*.md",
    )
    for path in ROOT.glob(pattern)
)


def prose(text: str) -> str:
    """A page without its blocks and pieces of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`", text)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading: lower case, punctuation gone, blanks as hyphens."""
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Every anchor of a page; a heading that comes again gets a number."""
    found: set[str] = set()
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", without_code, re.MULTILINE):
        name = first = anchor(heading)
        number = 0
        while name in found:
            number += 1
            name = f"{first}-{number}"
        found.add(name)
    return found


def links(text: str) -> Iterator[str]:
    """Targets of a page's links that stay inside the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def broken(page: str, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    wrong = []
    for target in links(text):
        name, _, part = target.partition("#")
        path = (ROOT / page).parent / name
        known = anchors(text) if not name else set[str]()
        if name and path.suffix == ".md" and path.exists():
            known = anchors(path.read_text(encoding="utf-8"))
        if not path.exists() or (part and part not in known):
            wrong.append(target)
    return wrong


def reachable(start: str) -> set[str]:
    """Pages that links lead to from one page, over any number of others."""
    found, left = {start}, [start]
    while left:
        page = left.pop()
        for target in links((ROOT / page).read_text(encoding="utf-8")):
            path = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.exists():
                name = str(path.relative_to(ROOT))
                if name not in found:
                    found.add(name)
                    left.append(name)
    return found

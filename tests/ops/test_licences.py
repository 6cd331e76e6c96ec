"""Everything that is in an image may be given on: the licences of all dependencies, Rust's too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

#: Licences that ask for a notice at most; MPL-2.0 asks for the changes of its own files, of which
#: there are none.
PERMITTED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
#: What packages without an expression say in its place.
WORDS = {
    "Apache 2": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}


def permitted(expression: str) -> bool:
    """Whether an SPDX expression can be met with permitted licences."""
    tokens = re.findall(r"[()]|/|[^\s()/]+", expression)

    def either() -> bool:
        found = both()
        while tokens and tokens[0] in ("OR", "/"):
            tokens.pop(0)
            other = both()
            found = found or other
        return found

    def both() -> bool:
        found = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            other = one()
            found = found and other
        return found

    def one() -> bool:
        if tokens and tokens[0] == "(":
            tokens.pop(0)
            found = either()
            assert tokens.pop(0) == ")", expression
            return found
        name = tokens.pop(0)
        if tokens and tokens[0] == "WITH":  # an exception only permits more
            del tokens[:2]
        return name in PERMITTED

    found = either()
    assert not tokens, expression
    return found


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT/Apache-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND Unicode-3.0", True),
        ("GPL-3.0-only WITH Classpath-exception-2.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
    ],
)
def test_expressions(expression: str, good: bool) -> None:
    assert permitted(expression) is good


def said(package: metadata.Distribution) -> str:
    """The licence of a Python package as an expression; empty if it does not say."""
    about: dict[str, Any] = package.metadata.json
    text = str(about.get("license_expression") or about.get("license") or "").strip()
    if text and "\n" not in text:
        return WORDS.get(text, text)
    kinds = [c.rpartition(" :: ")[2] for c in about.get("classifier", ()) if "License" in c]
    return " OR ".join(WORDS.get(kind, kind.replace(" ", "-")) for kind in kinds)


def test_python_packages() -> None:
    """Those that kaiwa needs, and those that they need."""
    found: dict[str, str] = {}
    names = ["kaiwa"]
    while names:
        package = metadata.distribution(names.pop())
        name = package.metadata["Name"].lower()
        if name in found:
            continue
        found[name] = said(package)
        for text in package.requires or ():
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                names.append(asked.name)
    assert {"numpy", "fastapi", "uvicorn", "redis"} <= set(found)
    assert {name: text for name, text in found.items() if not text or not permitted(text)} == {}


def test_crates() -> None:
    """Those of the compiled half, as Cargo.lock has them."""
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    words = ["metadata", "--format-version", "1", "--locked", "--offline"]
    words += ["--filter-platform", "x86_64-unknown-linux-gnu"]
    done = subprocess.run(
        ["cargo", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode and "offline" in done.stderr:
        pytest.skip("cargo has not downloaded the crates here: run cargo fetch")
    assert done.returncode == 0, done.stderr
    about: dict[str, Any] = json.loads(done.stdout)
    crates = {crate["id"]: crate for crate in about["packages"]}
    used = [crates[node["id"]] for node in about["resolve"]["nodes"]]
    assert {"candle-core", "pyo3"} <= {crate["name"] for crate in used}
    wrong = {
        crate["name"]: crate["license"]
        for crate in used
        if not crate["license"] or not permitted(crate["license"])
    }
    assert wrong == {}

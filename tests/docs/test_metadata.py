"""What pyproject.toml and the docstrings say about the package, held to the package itself."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from kaiwa.errors import ServerError
from kaiwa.reasons import REASONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"])


def imported() -> set[str]:
    """Top-level modules that the package imports anywhere, also inside functions."""
    found = set()
    for path in (ROOT / "python/kaiwa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_every_dependency_is_used() -> None:
    names = [re.split(r"[^\w-]", text, maxsplit=1)[0] for text in project()["dependencies"]]
    assert "numpy" in names
    # A package of another name than its module, and one that Starlette reads forms with.
    modules = {"webrtcvad-wheels": "webrtcvad", "python-multipart": "starlette"}
    assert {modules.get(name, name.replace("-", "_")) for name in names} <= imported()


def test_uvicorn_is_bounded_by_the_version_that_is_tested() -> None:
    bound = next(text for text in project()["dependencies"] if text.startswith("uvicorn"))
    locked = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    tested = re.search(r"^uvicorn==(\d+)\.(\d+)", locked, re.MULTILINE)
    upper = re.search(r"<(\d+)\.(\d+)$", bound)
    assert tested is not None
    assert upper is not None
    major, minor = map(int, tested.groups())
    assert tuple(map(int, upper.groups())) == (major, minor + 1)


def test_the_description_names_what_there_is() -> None:
    words = project()["description"]
    assert all(part in words for part in ("Moshi", "Mimi", "server", "library", "command line"))


def test_the_codes_that_an_error_names_exist() -> None:
    text = " ".join((ServerError.__doc__ or "").split())
    named = re.search(r"code: (.*?)retry:", text)
    assert named is not None
    words = set(re.findall(r"`(\w+)`", named.group(1)))
    assert len(words) >= 6
    assert words - set(REASONS) <= {"unreachable", "timeout", "lost"}

"""The rules about imports in pyproject.toml can be broken: made-up packages that break them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def contract(kind: str) -> dict[str, Any]:
    """The first contract of a kind."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = table["tool"]["importlinter"]["contracts"]
    return next(dict(c) for c in contracts if c["type"] == kind)


def lint(folder: Path, rule: dict[str, Any], modules: dict[str, str]) -> tuple[int, str]:
    """Exit status and output of import-linter over a made-up package of the name `kaiwa`."""
    for name, text in {"__init__.py": "", **modules}.items():
        path = folder / "kaiwa" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    lines = ["[importlinter]", "root_package = kaiwa", "[importlinter:contract:1]"]
    for key, value in rule.items():
        told = "\n    ".join(["", *value]) if isinstance(value, list) else json.dumps(value)
        lines.append(f"{key} = {told}".replace('"', ""))
    (folder / ".importlinter").write_text("\n".join(lines), encoding="utf-8")
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


IN_FUNCTION = "def late():\n    import kaiwa.a\n"


@pytest.mark.parametrize(
    ("modules", "kept"),
    [
        ({"a.py": "import kaiwa.b", "b.py": ""}, True),
        ({"a.py": "import kaiwa.b", "b.py": "import kaiwa.a"}, False),
        ({"a.py": "import kaiwa.b", "b.py": IN_FUNCTION}, False),
        (
            {"a.py": "import kaiwa.b", "b.py": "import kaiwa.c", "c.py": "import kaiwa.a"},
            False,
        ),
        # No module imports itself, but each package needs the other.
        (
            {
                "one/__init__.py": "",
                "one/x.py": "import kaiwa.two.x",
                "one/y.py": "",
                "two/__init__.py": "",
                "two/x.py": "",
                "two/y.py": "import kaiwa.one.y",
            },
            False,
        ),
        (
            {"p/__init__.py": "", "p/a.py": "import kaiwa.p.b", "p/b.py": "import kaiwa.p.a"},
            False,
        ),
    ],
    ids=["none", "two modules", "inside a function", "three modules", "two packages", "below"],
)
def test_a_circle_is_found(tmp_path: Path, modules: dict[str, str], kept: bool) -> None:
    status, said = lint(tmp_path, contract("acyclic_siblings"), modules)
    assert status == (0 if kept else 1), said
    assert ("BROKEN" in said) == (not kept)


@pytest.mark.parametrize(("importer", "imported"), [("one", "two"), ("two", "one")])
def test_an_import_that_goes_upward_is_found(tmp_path: Path, importer: str, imported: str) -> None:
    rule = {**contract("layers"), "layers": ["one", "two"]}
    modules = {f"{importer}.py": f"import kaiwa.{imported}", f"{imported}.py": ""}
    status, said = lint(tmp_path, {**rule, "ignore_imports": []}, modules)
    assert status == (0 if importer == "one" else 1), said


def test_a_module_without_a_layer_is_found(tmp_path: Path) -> None:
    rule = {**contract("layers"), "layers": ["one", "two"], "ignore_imports": []}
    status, said = lint(tmp_path, rule, {"one.py": "", "two.py": "", "new.py": ""})
    assert status == 1
    assert "kaiwa.new" in said

"""The modules of the Rust core: which may use which, and no circles between them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "rust/kaiwa-core/src"

# From the bottom up. A module may use those of the layers below its own, and not its neighbours.
# The crate map in lib.rs says the same in words.
LAYERS = [
    {"error"},
    {"formats", "checkpoint", "audio", "device"},
    {"cpu"},
    {"codec", "lm"},
    {"pipeline"},
    {"engine"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


def strip_comments(source: str) -> str:
    """Rust source without line comments; they name modules that the code does not use."""
    return re.sub(r"//.*", "", source)


def uses(root: Path) -> dict[str, set[str]]:
    """Top-level modules of a crate, and the other ones that each names after `crate::`."""
    modules = {path.stem for path in root.iterdir() if path.suffix == ".rs" or path.is_dir()}
    modules.discard("lib")
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for path in root.rglob("*.rs"):
        module = path.relative_to(root).parts[0].removesuffix(".rs")
        if module == "lib":
            continue
        code = strip_comments(path.read_text())
        named = set(re.findall(r"\bcrate::(\w+)", code))
        for group in re.findall(r"\bcrate::\{([^;]*?)\};", code):
            named |= set(re.findall(r"(?:^|,)\s*(\w+)", group))
        graph[module] |= named & modules - {module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that use each other in a circle; empty if there are none."""

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        for used in sorted(graph[module]):
            if found := search(used, [*path, module]):
                return found
        return []

    for module in sorted(graph):
        if found := search(module, []):
            return found
    return []


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Uses that go up or sideways in the layers."""
    return [
        f"{module} uses {used}"
        for module in sorted(graph)
        for used in sorted(graph[module])
        if RANK[used] >= RANK[module]
    ]


def test_every_module_has_its_layer() -> None:
    assert set(uses(CORE)) <= set(RANK), "put the new module into LAYERS and into lib.rs's map"


def test_no_circle_between_modules() -> None:
    assert circle(uses(CORE)) == []


def test_modules_use_only_lower_layers() -> None:
    assert upward(uses(CORE)) == []


@pytest.mark.parametrize(
    ("path", "line", "said"),
    [
        ("cpu/pack.rs", "use crate::lm::Encoding;", "cpu uses lm"),
        ("cpu/deep/kernel.rs", "let x = crate::codec::WIDTH;", "cpu uses codec"),
        ("codec.rs", "use crate::{error::Error, lm::Moshi};", "codec uses lm"),
    ],
)
def test_a_use_that_goes_up_is_seen(tmp_path: Path, path: str, line: str, said: str) -> None:
    for name in ("error.rs", "cpu/mod.rs", "codec.rs", "lm/mod.rs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("use crate::error::Error; // and crate::engine is above\n")
    (tmp_path / "lm/mod.rs").write_text("use crate::cpu::matmul;\n")
    assert upward(uses(tmp_path)) == []
    assert circle(uses(tmp_path)) == []
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(line + "\n")
    assert upward(uses(tmp_path)) == [said]
    # Only the first closes a circle: lm uses cpu.
    assert bool(circle(uses(tmp_path))) == (said == "cpu uses lm")

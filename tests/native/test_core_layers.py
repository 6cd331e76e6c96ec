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
    {"formats", "json", "checkpoint", "audio", "device"},
    {"cpu", "cuda"},
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


def code_of(path: Path) -> str:
    """What a file compiles to without its tests, which may look at everything."""
    return strip_comments(path.read_text()).split("#[cfg(test)]\n#[allow")[0]


def imports(code: str) -> set[tuple[str, ...]]:
    """Paths that code names from `crate`, `self` or `super`, and all paths of `use`."""

    def expand(tree: str, prefix: tuple[str, ...]) -> set[tuple[str, ...]]:
        head, brace, rest = tree.strip().partition("{")
        path = (*prefix, *(part for part in head.split(" as ")[0].strip().split("::") if part))
        if not brace:
            return {path}
        found, depth, start = set(), 0, 0
        inner = rest.rsplit("}", 1)[0] + ","
        for at, char in enumerate(inner):
            depth += (char == "{") - (char == "}")
            if char == "," and depth == 0:
                if inner[start:at].strip():
                    found |= expand(inner[start:at], path)
                start = at + 1
        return found

    found = set()
    for tree in re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?use ([^;]+);", code, re.MULTILINE):
        found |= expand(tree, ())
    rest = re.sub(r"\buse [^;]+;", "", code)
    for path in re.findall(r"(?<!::)\b(?:crate|self|super)(?:::\w+)+|(?<![:\w])\w+(?=::)", rest):
        found.add(tuple(path.split("::")))
    return found


def file_uses(root: Path) -> dict[str, set[str]]:
    """Files of a crate, and the other files whose items each names.

    A file that only hands on another's items (`pub use`) does not count as using them, and who
    takes them from there uses the other.
    """
    files = {}
    for path in sorted(root.rglob("*.rs")):
        parts = path.relative_to(root).with_suffix("").parts
        if not parts[-1].endswith("tests"):
            files[parts[:-1] if parts[-1] in ("mod", "lib") else parts] = path
    handed_on: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}
    named = {}
    for module, path in files.items():
        code = code_of(path)
        public = re.findall(r"^pub(?:\([^)]*\))? use [^;]+;", code, re.MULTILINE)
        handed_on[module] = {item[-1]: item for use in public for item in imports(use)}
        named[module] = imports(re.sub(r"^pub(?:\([^)]*\))? use [^;]+;", "", code, flags=re.M))

    def file_of(path: tuple[str, ...], at: tuple[str, ...]) -> tuple[str, ...] | None:
        """The file that defines what `path` means in the module `at`."""
        first, *rest = path
        if first == "crate":
            at = ()
        elif first == "super":
            at = at[:-1]
        elif first != "self":
            if (*at, first) not in files:
                return None
            at = (*at, first)
        for step, name in enumerate(rest):
            if name == "super":
                at = at[:-1]
            elif (*at, name) in files:
                at = (*at, name)
            elif name in handed_on[at]:
                return file_of((*handed_on[at][name], *rest[step + 1 :]), at) or at
            else:
                break
        return at

    def name(module: tuple[str, ...]) -> str:
        return str(files[module].relative_to(root))

    graph = {}
    for module, paths in named.items():
        used = {file_of(path, module) for path in paths}
        graph[name(module)] = {name(other) for other in used if other not in (None, module)}
    return graph


def circles_of_files(root: Path) -> list[set[str]]:
    """Files that use each other in a circle, a set for each.

    A folder's `mod.rs` opens the files of its folder, and these may use what it defines for all of
    them (a trait and its implementations, say): that is no circle.
    """
    graph = {
        file: {
            used
            for used in others
            if not (used.endswith("mod.rs") and file.startswith(used.removesuffix("mod.rs")))
        }
        for file, others in file_uses(root).items()
    }

    def reached(file: str) -> set[str]:
        seen: set[str] = set()
        left = list(graph[file])
        while left:
            if (used := left.pop()) not in seen:
                seen.add(used)
                left += graph[used]
        return seen

    reach = {file: reached(file) for file in graph}
    groups = {
        frozenset(other for other in reach[file] if file in reach[other])
        for file in graph
        if file in reach[file]
    }
    return [set(group) for group in groups]


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


def test_no_circle_between_files() -> None:
    assert circles_of_files(CORE) == []


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


CIRCLES: list[dict[str, str]] = [
    # Two files of a folder, each in its own way.
    {"cpu/pack.rs": "use super::quant::Quant;", "cpu/quant.rs": "fn f() -> super::pack::P {}"},
    {"cpu/pack.rs": "use crate::cpu::{isa, quant::Quant};", "cpu/quant.rs": "use super::{pack};"},
    # By way of what a folder hands on.
    {
        "cpu/mod.rs": "mod pack;\nmod quant;\npub(crate) use pack::Packed;",
        "cpu/pack.rs": "use super::quant::Quant;",
        "cpu/quant.rs": "use super::Packed;",
    },
]


@pytest.mark.parametrize("files", CIRCLES)
def test_a_circle_inside_a_folder_is_seen(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "cpu").mkdir()
    for path in ("lib.rs", "cpu/mod.rs", "cpu/pack.rs", "cpu/quant.rs", "cpu/isa.rs"):
        (tmp_path / path).write_text("use super::isa::Isa; // as super::pack does\n")
    for path, code in files.items():
        (tmp_path / path).write_text(code + "\n")
    assert circles_of_files(tmp_path) == [{"cpu/pack.rs", "cpu/quant.rs"}]
    # Without one of the two there is none.
    (tmp_path / "cpu/quant.rs").write_text("// super::pack::P\n")
    assert circles_of_files(tmp_path) == []


def test_a_folder_may_open_files_that_use_it(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "lib.rs").write_text("pub mod cpu;\n")
    (tmp_path / "cpu/mod.rs").write_text("mod pack;\nuse self::pack::Packed;\npub struct Own;\n")
    (tmp_path / "cpu/pack.rs").write_text("use super::Own;\n")
    assert file_uses(tmp_path)["cpu/pack.rs"] == {"cpu/mod.rs"}
    assert circles_of_files(tmp_path) == []

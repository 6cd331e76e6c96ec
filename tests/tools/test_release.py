"""What belongs to a release: what it consists of, images by digest, checksums. No network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools import release

ROOT = Path(__file__).parents[2]
VERSION = metadata.version("kaiwa")
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / f"kaiwa-{VERSION}-cp310-abi3-manylinux_2_28_x86_64.whl").write_bytes(b"a wheel")
    (folder / "kaiwa-0.0.0-cp310-abi3-manylinux_2_28_x86_64.whl").write_bytes(b"an old one")
    return folder


def made(*words: object, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(ROOT / "scripts/release"), *map(str, words)],
        env={**os.environ, "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def crates_are_here() -> bool:
    try:
        release.rust_parts()
    except release.ReleaseError:
        return False
    return True


needs_crates = pytest.mark.skipif(
    shutil.which("cargo") is None or not crates_are_here(),
    reason="needs cargo and the crates (cargo fetch)",
)


def names(bom: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["version"] for part in bom["components"]}


@needs_crates
def test_a_release_has_its_wheel_what_it_consists_of_and_checksums(
    tmp_path: Path, wheels: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        status, said = made(folder, "--wheels", wheels, SOURCE_DATE_EPOCH="1700000000")
        assert status == 0, said
    assert {path.name for path in first.iterdir()} == {
        f"kaiwa-{VERSION}-cp310-abi3-manylinux_2_28_x86_64.whl",
        f"kaiwa-{VERSION}.python.cdx.json",
        f"kaiwa-{VERSION}.rust.cdx.json",
        "SHA256SUMS",
    }
    # The same source gives the same files.
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=first, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b": OK") == 3
    (first / f"kaiwa-{VERSION}.rust.cdx.json").write_text("{}")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=first).returncode == 1


def test_the_list_of_packages_is_that_of_what_is_installed() -> None:
    bom = json.loads(release.written(*release.python_parts(), release.moment()))
    found = names(bom)
    assert bom["metadata"]["component"]["name"] == "kaiwa"
    assert bom["metadata"]["component"]["version"] == VERSION
    for name in ("numpy", "fastapi", "starlette", "uvicorn", "redis", "websockets"):
        assert found[name] == metadata.version(name)
    # What only developers and tests need is not in it.
    assert not {"pytest", "ruff", "mypy", "kaiwa"} & set(found)
    needs = {row["ref"]: row.get("dependsOn", []) for row in bom["dependencies"]}
    assert f"pkg:pypi/numpy@{found['numpy']}" in needs[f"pkg:pypi/kaiwa@{VERSION}"]
    assert (
        f"pkg:pypi/starlette@{found['starlette']}" in needs[f"pkg:pypi/fastapi@{found['fastapi']}"]
    )
    assert all(part["purl"] == part["bom-ref"] for part in bom["components"])
    assert sum("licenses" not in part for part in bom["components"]) <= 2


@needs_crates
def test_the_list_of_crates_is_that_of_the_lock_file() -> None:
    bom = json.loads(release.written(*release.rust_parts(), release.moment()))
    lock = (ROOT / "Cargo.lock").read_text()
    found = names(bom)
    assert {"kaiwa-core", "candle-core", "pyo3", "ogg", "rubato"} <= set(found)
    for part in bom["components"]:
        assert f'name = "{part["name"]}"\nversion = "{part["version"]}"' in lock
        if not part["name"].startswith("kaiwa"):
            assert part["hashes"][0]["content"] in lock
            assert part["licenses"], part["name"]
    # Of the workspace's own crates there are those that are compiled into the wheel.
    assert {name for name in found if name.startswith("kaiwa")} == {"kaiwa-core"}


def test_the_form_is_the_one_of_the_standard() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    text = release.written(*release.python_parts(), release.moment())
    try:
        problem = validator.validate_str(text)
    except Exception as missing:
        pytest.skip(f"cannot be checked here: {missing}")
    assert problem is None


@pytest.mark.parametrize("what", ["full folder", "no wheel"])
def test_what_is_missing_is_said(what: str, tmp_path: Path, wheels: Path) -> None:
    if what == "full folder":
        status, said = made(wheels, "--wheels", wheels)
        assert "is not empty; name a new folder" in said
    else:
        status, said = made(tmp_path / "new", "--wheels", tmp_path)
        assert f"no wheel of kaiwa {VERSION}" in said
        assert "run scripts/setup" in said
    assert status == 1


# ---- images --------------------------------------------------------------------------------------


def test_all_images_of_the_stack_are_known() -> None:
    found = release.stack_images()
    assert found["REDIS_IMAGE"] == os.environ.get("REDIS_IMAGE", "redis:7.4")
    assert {
        "KAIWA_IMAGE", "KAIWA_GPU_IMAGE", "EDGE_IMAGE", "HAPROXY_IMAGE", "REDIS_IMAGE",
        "PROMETHEUS_IMAGE", "ALERTMANAGER_IMAGE", "BLACKBOX_IMAGE", "GRAFANA_IMAGE",
    } == set(found)  # fmt: skip


@pytest.mark.parametrize(
    ("image", "digests", "pinned"),
    [
        ("redis:7.4", [f"redis@{DIGEST}"], f"redis@{DIGEST}"),
        ("redis:7.4", [f"other@{DIGEST}", f"docker.io/library/redis@{DIGEST}"], "library"),
        ("prom/alertmanager:v0.27.0", [f"prom/alertmanager@{DIGEST}"], "prom/alertmanager@"),
        ("host:5000/kaiwa:1", [f"host:5000/kaiwa@{DIGEST}"], f"host:5000/kaiwa@{DIGEST}"),
        (f"x/y@{DIGEST}", None, f"x/y@{DIGEST}"),
        ("kaiwa", [], ""),
        ("redis:7.4", [f"mirror/redis@{DIGEST}"], ""),
    ],
)
def test_an_image_is_named_by_the_digest_of_its_own_registry(
    image: str, digests: list[str] | None, pinned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "run", lambda *_: json.dumps(digests))
    lines, problems = release.image_lines({"SOME_IMAGE": image})
    if pinned:
        (line,) = lines
        assert pinned in line
        assert line.startswith("SOME_IMAGE=")
        assert line.endswith(f"@{DIGEST}")
        assert problems == []
    else:
        assert lines == []
        (problem,) = problems
        assert "push it" in problem

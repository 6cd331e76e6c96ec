"""Images for the tests, built without a registry where there is none.

`python -m tests.ops.images` builds them all. They stay as a cache (`kaiwa-test/...`);
`python -m tests.ops.images --remove` deletes them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from tests.ops.docker import ROOT, DockerError, docker, run, tried

BASE = "kaiwa-test/base"
STANDINS = "kaiwa-test/standins"
KAIWA = "kaiwa-test/kaiwa"
#: What the images are made from, as a label: a change builds them anew.
STAMP = "kaiwa.test.stamp"

_CODENAME = "bookworm"
#: Packages that a Dockerfile of ours asks for are downloaded by the engine itself.
_BUILD_SECONDS = 580


class CannotBuild(Exception):  # noqa: N818
    """There is no way to make an image here; the text says what is missing."""


@cache
def base() -> str:
    """A Debian to build on: from the registry if it can be reached, else by debootstrap."""
    official = f"debian:{_CODENAME}-slim"
    for name in (official, BASE):
        if tried("image", "inspect", name):
            return name
    if tried("pull", official, seconds=60):
        return official
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise CannotBuild(
            f"the engine reaches no registry for {official}, and a base image of our own needs "
            "debootstrap (a package of Debian) and root"
        )
    with tempfile.TemporaryDirectory(prefix="kaiwa-base-") as folder:
        words = ["debootstrap", "--variant=minbase", _CODENAME, folder, *_mirror()]
        run(*words, seconds=_BUILD_SECONDS)
        shutil.rmtree(Path(folder, "var/cache/apt"), ignore_errors=True)
        with subprocess.Popen(
            ["tar", "-C", folder, "--exclude=./dev/*", "-c", "."], stdout=subprocess.PIPE
        ) as packed:
            subprocess.run(["docker", "import", "-", BASE], stdin=packed.stdout, check=True)
        if packed.returncode:
            raise CannotBuild("the new base image could not be packed")
    return BASE


def _mirror() -> list[str]:
    """The mirror that this machine's own apt uses; empty if it has none for this Debian."""
    words = ["apt-get", "indextargets", "--format", "$(SITE)/ $(URI)", f"Codename: {_CODENAME}"]
    try:
        lines = run(*words).splitlines()
    except (DockerError, FileNotFoundError):
        return []
    for line in lines:
        _, _, uri = line.partition(" ")
        where, found, _ = uri.partition(f"/dists/{_CODENAME}/main/")
        if found:
            return [where]
    return []


@cache
def standins() -> str:
    """HAProxy, Prometheus, Redis and ShellCheck from Debian."""
    folder = Path(__file__).parent / "standins"
    stamp = _digest([folder / "Dockerfile"])
    if not _is_current(STANDINS, stamp):
        _build(STANDINS, stamp, folder, "--build-arg", f"BASE={base()}")
    return STANDINS


@cache
def kaiwa() -> str:
    """The image of Dockerfile, with the wheel that was built last."""
    wheel = _wheel()
    inputs = sorted(p for p in (ROOT / "deploy/image").iterdir() if p.is_file())
    inputs += [ROOT / "Dockerfile", ROOT / ".dockerignore", ROOT / "requirements-dev.lock", wheel]
    stamp = _digest(inputs)
    if _is_current(KAIWA, stamp):
        return KAIWA
    with tempfile.TemporaryDirectory(prefix="kaiwa-context-") as made:
        context = Path(made)
        for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
            if (ROOT / name).is_file():
                (context / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, context / name)
        (context / "dist").mkdir()
        shutil.copy2(wheel, context / "dist")
        _dependencies(context, wheel)
        _build(
            KAIWA,
            stamp,
            context,
            *("--build-arg", f"BASE={base()}", "--build-arg", "PIP_OPTIONS=--no-index"),
            *("--build-arg", "VERSION=test", "--build-arg", "REVISION=none"),
        )
    return KAIWA


def _wheel() -> Path:
    """The wheel of this very source."""
    found = sorted((ROOT / "target/wheels").glob("kaiwa-*-manylinux*.whl"))
    if len(found) != 1:
        raise CannotBuild(
            "target/wheels should hold one wheel of kaiwa for Linux; run scripts/setup"
        )
    with zipfile.ZipFile(found[0]) as wheel:
        for path in (ROOT / "python/kaiwa").rglob("*.py"):
            name = path.relative_to(ROOT / "python").as_posix()
            if name not in wheel.namelist() or wheel.read(name) != path.read_bytes():
                raise CannotBuild(
                    f"{found[0].name} is older than {name}; run scripts/setup, which builds it anew"
                )
    return found[0]


def _dependencies(context: Path, wheel: Path) -> None:
    """Wheels for the Python of the base image, fetched from outside: a container may lack the
    certificates or the index that this machine's pip uses."""
    tags = [f"manylinux_2_{n}_x86_64" for n in range(17, 37)] + ["manylinux2014_x86_64"]
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"),
        *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3"),
        *("--abi", "none", *(word for tag in tags for word in ("--platform", tag))),
        *("--constraint", ROOT / "requirements-dev.lock", "--dest", context / "dist", wheel),
        # Asked for by redis below Python 3.11.3, which the base image has and this machine may not.
        "async-timeout",
        seconds=_BUILD_SECONDS,
    )


def _digest(paths: list[Path]) -> str:
    """One number for the contents of files."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]


def _is_current(image: str, stamp: str) -> bool:
    """Whether an image was made from the files with this number."""
    try:
        found = docker("image", "inspect", "-f", f'{{{{index .Config.Labels "{STAMP}"}}}}', image)
    except DockerError:
        return False
    return found == stamp


def _build(image: str, stamp: str, context: Path, *more: object) -> None:
    """`docker build`, by the classic builder where there is no other."""
    words = ["build", "--label", f"{STAMP}={stamp}", "-t", image, *more, context]
    docker(*words, seconds=_BUILD_SECONDS)
    # What the last build under this name has left.
    tried("image", "prune", "-f", "--filter", f"label={STAMP}")


def main() -> None:
    """Builds or removes all images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remove", action="store_true", help="delete the images instead")
    if parser.parse_args().remove:
        for image in (KAIWA, STANDINS, BASE):
            tried("image", "rm", "-f", image)
        return
    for build in (base, standins, kaiwa):
        print(build(), flush=True)


if __name__ == "__main__":
    main()

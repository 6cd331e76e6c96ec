"""What belongs to a release beside the wheels: lists of what they consist of, digests of the images
that a stack runs, and checksums of all of it. `scripts/release` calls this.

    python -m tools.release FOLDER [--wheels FOLDER] [--images]

Nothing is downloaded: the crates are those of Cargo.lock, the packages those that are installed
here, and the Docker engine is asked for images, which it has to have pulled. The same source gives
the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
#: The files that name images, by variables.
STACK = ("docker-compose.yml", "swarm-config.yml", "deploy/swarm")
_IMAGE = re.compile(r'image: "\$\{(\w+_IMAGE):-([^}]+)\}"')


class ReleaseError(Exception):
    """What is missing, and what to do."""


def run(*words: str) -> str:
    """What a program prints.

    Raises:
        ReleaseError: it is not there, or fails.
    """
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ReleaseError(f"the program {words[0]} is not installed") from None
    if done.returncode:
        raise ReleaseError(f"{' '.join(words)}: {done.stderr.strip()[-500:]}")
    return done.stdout


# ---- what it consists of -------------------------------------------------------------------------


def component(name: str, version: str, kind: str, licence: str, sha256: str = "") -> Component:
    """A package of PyPI or a crate; the licence is an SPDX expression or what stands for one."""
    url = PackageURL(kind, None, name, version)
    licences = [LicenseFactory().make_from_string(licence)] if licence else []
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        licenses=licences,
        hashes=hashes,
    )


def written(root: Component, parts: dict[Component, list[Component]], when: datetime) -> str:
    """A list in CycloneDX's form, with who needs whom."""
    root.type = ComponentType.APPLICATION
    bom = Bom()
    bom.metadata.component = root
    bom.metadata.timestamp = when
    for part in parts:
        if part is not root:
            bom.components.add(part)
    for part, needed in parts.items():
        bom.register_dependency(part, needed)
    bom.serial_number = uuid.uuid5(
        uuid.NAMESPACE_URL, " ".join(sorted(str(part.purl) for part in parts))
    )
    made = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return made.output_as_string(indent=2) + "\n"


def python_parts(name: str = "kaiwa") -> tuple[Component, dict[Component, list[Component]]]:
    """The package, all that it needs as installed here, and what each of these needs.

    Raises:
        ReleaseError: one of them is not installed.
    """
    found: dict[str, Component] = {}
    needs: dict[str, set[str]] = {}
    left = [name]
    while left:
        asked = _plain(left.pop())
        if asked in found:
            continue
        try:
            package = metadata.distribution(asked)
        except metadata.PackageNotFoundError:
            raise ReleaseError(f"{asked} is not installed here; run scripts/setup") from None
        found[asked] = component(asked, package.version, "pypi", _licence(package))
        wanted = [Requirement(text) for text in package.requires or ()]
        wanted = [w for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
        needs[asked] = {_plain(w.name) for w in wanted}
        left += needs[asked]
    parts = {found[one]: [found[n] for n in sorted(needs[one])] for one in found}
    return found[_plain(name)], parts


def _plain(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(package: metadata.Distribution) -> str:
    about: dict[str, Any] = package.metadata.json
    text = str(about.get("license_expression") or about.get("license") or "").strip()
    if text and "\n" not in text:
        return text
    kinds = [c.rpartition(" :: ")[2] for c in about.get("classifier", ()) if "License" in c]
    return " OR ".join(kinds) if len(kinds) == 1 else ""


def rust_parts() -> tuple[Component, dict[Component, list[Component]]]:
    """The compiled half, and the crates that are compiled into it, on Linux.

    Raises:
        ReleaseError: cargo is missing, or has not downloaded the crates.
    """
    words = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline"]
    told = json.loads(run(*words, "--filter-platform", "x86_64-unknown-linux-gnu"))
    sums = _checksums((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    about = {crate["id"]: crate for crate in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    (first,) = (key for key, crate in about.items() if crate["name"] == "kaiwa-py")
    made: dict[str, Component] = {}
    needs: dict[str, list[str]] = {}
    left = [first]
    while left:
        key = left.pop()
        if key in made:
            continue
        crate = about[key]
        name, version = crate["name"], crate["version"]
        licence = (crate["license"] or "").replace("/", " OR ")
        made[key] = component(name, version, "cargo", licence, sums.get(f"{name} {version}", ""))
        # What only tests and builds need is not in what is given on.
        needs[key] = [
            dep["pkg"]
            for dep in nodes[key]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
        left += needs[key]
    parts = {made[key]: [made[n] for n in needs[key]] for key in made}
    return made[first], parts


def _checksums(lock: str) -> dict[str, str]:
    """SHA-256 of each crate's archive, by name and version."""
    found = {}
    for block in lock.split("[[package]]")[1:]:
        told = dict(re.findall(r'^(\w+) = "([^"]*)"$', block, re.MULTILINE))
        if "checksum" in told:
            found[f"{told['name']} {told['version']}"] = told["checksum"]
    return found


# ---- images --------------------------------------------------------------------------------------


def stack_images() -> dict[str, str]:
    """The images that a stack runs, by the variables that name them: what a variable holds, or what
    stands in the files.
    """
    files: list[Path] = []
    for name in STACK:
        path = ROOT / name
        files += sorted(path.glob("*.yml")) if path.is_dir() else [path]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return {name: os.environ.get(name) or usual for name, usual in _IMAGE.findall(text)}


def by_digest(image: str) -> str:
    """An image's name with the digest that its registry knows it by.

    Raises:
        ReleaseError: the engine does not have it, or it was never in a registry.
    """
    if "@sha256:" in image:
        return image
    found = json.loads(
        run("docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image)
    )
    repository = image.rpartition("/")[0] + "/" if "/" in image else ""
    repository += image.rpartition("/")[2].partition(":")[0]
    for name in found or ():
        if name.partition("@")[0] in (
            repository,
            f"docker.io/{repository}",
            f"docker.io/library/{repository}",
        ):
            return str(name)
    raise ReleaseError(f"{image} was never in a registry: push it, or leave its variable out")


def image_lines(chosen: dict[str, str]) -> tuple[list[str], list[str]]:
    """Lines for `deploy.sh` and Compose, and what cannot be pinned and why."""
    lines, problems = [], []
    for name, image in sorted(chosen.items()):
        try:
            lines.append(f"{name}={by_digest(image)}")
        except ReleaseError as error:
            problems.append(f"{name}: {error}")
    return lines, problems


# ---- the whole -----------------------------------------------------------------------------------


def checksums(folder: Path) -> str:
    """Lines as `sha256sum -c` reads them, of every file but the list itself."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    return "".join(lines)


def moment() -> datetime:
    """When the source was committed, or what SOURCE_DATE_EPOCH says."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip()
    return datetime.fromtimestamp(int(seconds), timezone.utc)


def release(folder: Path, wheels: Path, images: bool) -> list[str]:
    """Writes everything into a folder that is new or empty; gives what could not be done.

    Raises:
        ReleaseError: the folder has something in it, there is no wheel, or a list cannot be made.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ReleaseError(f"{folder} is not empty; name a new folder")
    version = metadata.version("kaiwa")
    found = sorted(wheels.glob(f"kaiwa-{version}-*.whl"))
    if not found:
        raise ReleaseError(f"no wheel of kaiwa {version} in {wheels}; run scripts/setup")
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in found:
        shutil.copy2(wheel, folder)
    when = moment()
    problems: list[str] = []
    for kind, (root, parts) in (("python", python_parts()), ("rust", rust_parts())):
        path = folder / f"kaiwa-{version}.{kind}.cdx.json"
        path.write_text(written(root, parts, when), encoding="utf-8")
    if images:
        lines, problems = image_lines(stack_images())
        (folder / "images.env").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "SHA256SUMS").write_text(checksums(folder), encoding="utf-8")
    return problems


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="new or empty")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / "target/wheels", help="where they are"
    )
    parser.add_argument(
        "--images", action="store_true", help="also write images.env; needs a Docker engine"
    )
    asked = parser.parse_args()
    try:
        problems = release(asked.folder, asked.wheels, asked.images)
    except ReleaseError as error:
        sys.stderr.write(f"scripts/release: {error}\n")
        return 1
    for path in sorted(asked.folder.iterdir()):
        print(path)
    for problem in problems:
        sys.stderr.write(f"not pinned: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

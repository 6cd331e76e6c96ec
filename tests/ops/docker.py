"""The Docker engine as the tests use it: commands, and whether there is an engine at all."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class DockerError(AssertionError):
    """A command of docker failed."""


def docker(*words: object, seconds: float = 120, stdin: str | None = None) -> str:
    """Output of a command of docker, without the last line's end.

    Raises:
        DockerError: it failed, or took longer than `seconds`.
    """
    return run("docker", *words, seconds=seconds, stdin=stdin)


def run(*words: object, seconds: float = 120, stdin: str | None = None, **more: Any) -> str:
    """Output of a program.

    Raises:
        DockerError: it failed, or took longer than `seconds`.
    """
    command = [str(word) for word in words]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            input=stdin,
            check=False,
            **more,
        )
    except subprocess.TimeoutExpired as late:
        raise DockerError(f"{' '.join(command)}: not done in {seconds:g} s") from late
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise DockerError(f"{' '.join(command)}: status {done.returncode}\n{said}")
    said = str(done.stdout)
    return said.rstrip("\n")


def tried(*words: object, seconds: float = 120) -> bool:
    """Whether a command of docker succeeds."""
    try:
        docker(*words, seconds=seconds)
    except DockerError:
        return False
    return True


@cache
def missing_engine() -> str:
    """Why there is no Docker engine to test with; empty if there is one."""
    if shutil.which("docker") is None:
        return "needs Docker: the program `docker` is not installed"
    try:
        about = json.loads(docker("info", "--format", "{{json .}}", seconds=20))
    except (DockerError, ValueError):
        return "needs Docker: no engine answers `docker info`"
    if about.get("OSType") != "linux":
        return "needs Docker: the engine must run Linux containers"
    return ""


def inspect(what: str) -> Any:
    """What `docker inspect` tells of one container, image, service or network."""
    return json.loads(docker("inspect", what))[0]

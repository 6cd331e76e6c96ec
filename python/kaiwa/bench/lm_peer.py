"""The program that times the published Rust crate `moshi` (benches/upstream-moshi)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiwa.errors import InputError


class PeerError(Exception):
    """A peer that cannot take part, and why."""


@dataclass(frozen=True)
class PeerRun:
    """One run of the program: a fresh process."""

    label: str
    load_s: float
    step_ms: list[float]


def parse(output: str, program: Path) -> PeerRun:
    """Reads the program's line of JSON.

    Raises:
        PeerError: if it is something else.
    """
    lines = output.strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1] if lines else "")
        steps = [float(value) for value in answer["step_ms"]]
        load_s = float(answer["load_s"])
        label = _label(answer, program)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeerError(f"{program} printed no times ({error})") from error
    if not steps or not all(value > 0 for value in [*steps, load_s]):
        raise PeerError(f"{program} printed times that are not positive")
    return PeerRun(label, load_s, steps)


def _label(answer: dict[str, Any], program: Path) -> str:
    """What it is and how it was built; two builds must not share a label."""
    name = answer.get("peer", program.name)
    simd = "AVX-512" if answer.get("avx512") else "AVX2" if answer.get("avx2") else "default flags"
    return f"{name}, {answer.get('dtype', 'q8_0')} ({simd})"


@dataclass(frozen=True)
class Peer:
    """A build of the program."""

    program: Path

    def __post_init__(self) -> None:
        if not self.program.is_file():
            raise InputError(
                f"--peer {self.program}: no such program; build it with scripts/build-peers"
            )

    def run(self, model: Path, *, steps: int, warm_up: int, prefill: int, threads: int) -> PeerRun:
        """Loads the model in a fresh process, steps, and ends it.

        Raises:
            PeerError: with the program's own words if it fails.
        """
        command = [str(self.program.resolve()), str(model)]
        for name, value in (
            ("steps", steps),
            ("warm-up", warm_up),
            ("prefill", prefill),
            ("threads", threads),
        ):
            command += [f"--{name}", str(value)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=3600, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerError(f"cannot be run ({error})") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise PeerError(f"failed with exit code {done.returncode} ({said})")
        return parse(done.stdout, self.program)


def model_file(source: Path) -> Path | None:
    """The GGUF file that a peer can load, with its `config.json` beside it."""
    if source.is_file():
        return source if source.suffix == ".gguf" else None
    found = sorted(source.glob("*.gguf"))
    return found[0] if len(found) == 1 else None

"""Runs the stages one after the other, each in a process of its own with a deadline, and keeps
one report up to date all the while."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.gpu import record, report
from tools.gpu.plan import SECONDS, STAGES, Stage

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """What is checked out, or what a file beside the build says."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def run(
    device: str,
    out: Path,
    sizes: str,
    only: list[str],
    counter: Path | None,
    stages: tuple[Stage, ...] = STAGES,
    seconds: float = SECONDS,
) -> int:
    """Runs the stages of a list (all if empty); 0 if every one of them went through. Stages that
    would begin after `seconds` are not run; one that is under way then is ended."""
    end = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "asked": device,
        "sizes": sizes,
        "commit": commit(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "seconds": {},
        "errors": {},
    }
    for stage in stages:
        if only and stage.name not in only:
            continue
        if stage.kernels == "own" and not device.startswith("cuda"):
            continue
        began = time.monotonic()
        left = min(stage.seconds, end - began)
        error = _stage(stage, left, device, out, sizes, counter)
        result["seconds"][stage.name] = round(time.monotonic() - began, 1)
        result[stage.name] = record.read(out / f"{stage.name}.json")
        if error is not None:
            result["errors"][stage.name] = error
        record.write(out / "gpu.json", result)
        (out / "gpu.md").write_text(report.markdown(result), encoding="utf-8")
        said = "ok" if error is None else error.splitlines()[-1]
        print(f"{stage.name:14} {result['seconds'][stage.name]:6.1f} s  {said}", flush=True)
        if error is not None and stage.fatal:
            break
    print(f"report: {out / 'gpu.json'} and {out / 'gpu.md'}")
    return 1 if result["errors"] else 0


def _stage(
    stage: Stage, seconds: float, device: str, out: Path, sizes: str, counter: Path | None
) -> str | None:
    """Runs one stage for some seconds at most; what went wrong, if anything did."""
    if seconds <= 0:
        return "not run: no time was left for it"
    command = [sys.executable, "-m", "tools.gpu", "stage", stage.name]
    command += ["--device", device, "--out", str(out), "--sizes", sizes]
    environment = {**os.environ, "KAIWA_CUDA": stage.kernels}
    if stage.counted and counter is not None:
        environment["LD_PRELOAD"] = str(counter)
    log = out / f"{stage.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"ended after its {seconds:.0f} seconds; what it had measured is kept"
    if status == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-5:])[-800:] or f"ended with status {status}"

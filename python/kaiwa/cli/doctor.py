"""`kaiwa doctor`: what this installation can do on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kaiwa.cli import options

#: Packages that are used where they are found, with what they are for.
OPTIONAL = {
    "soundfile": "audio files",
    "huggingface_hub": "fetching models",
    "rich": "progress bars",
    "matplotlib": "pictures of calls",
    "rustymimi": "peer in the bench",
    "moshi": "peer in the bench",
    "torch": "peer in the bench",
}


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what works on this machine",
        description="Report version, processor, kernels, threads, memory, GPU and what "
        "this build has code for, audio formats and optional packages: what a bug report needs.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reports; see the parser for the arguments."""
    from kaiwa.terminal import table

    table.show(report(), as_json=args.json)
    return 0


def report() -> dict[str, Any]:
    """The whole report as plain values."""
    import platform

    from kaiwa import __version__, _native

    cpu = _native.cpu_info()
    return {
        "kaiwa": __version__,
        "build": dict(_native.build_info()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "kernels": cpu["selected"],
        "kernels_available": cpu["available"],
        "threads": cpu["threads"],
        "memory": _memory(),
        "gpu": _gpu(),
        "audio": _audio(),
        "webrtc": _webrtc(),
        "packages": {name: _version(name) for name in OPTIONAL},
    }


def _version(package: str) -> str | None:
    """Version of an installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _webrtc() -> str:
    """What calls by WebRTC are made with, or how to have them."""
    version = _version("aiortc")
    return "not installed: pip install 'kaiwa[webrtc]'" if version is None else f"aiortc {version}"


def _processor() -> str | None:
    """The processor's name, where the system tells."""
    import platform

    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory() -> dict[str, float | None]:
    """Memory in GiB, where the system tells: the machine's, and what can be had without swapping
    (in a container: within its limit)."""
    from kaiwa import _native

    return {"total_gib": _gib(_total_memory()), "available_gib": _gib(_native.available_memory())}


def _gib(count: int | None) -> float | None:
    return None if count is None else round(count / 2**30, 2)


def _total_memory() -> int | None:
    """Bytes of memory of the machine."""
    import os

    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _gpu() -> dict[str, Any]:
    """NVIDIA's card and driver, what this build has code for, and whether the two fit together."""
    from kaiwa import _native
    from kaiwa.cli import nvidia_smi
    from kaiwa.errors import KaiwaError

    fields = {"card": "name", "driver": "driver_version", "capability": "compute_cap"}
    found: dict[str, Any] = {**dict.fromkeys(fields), **nvidia_smi.query(fields, seconds=5.0)}
    build = _native.build_info()
    found["built_for"] = build["cuda"]
    found["kernels"] = found["problem"] = None
    if "cuda" not in build["features"]:
        found["problem"] = "this build has no CUDA" if found["card"] else None
        return found
    try:
        found["kernels"] = _native.cuda_path()
        opened = _native.describe_device("cuda")
    except KaiwaError as error:
        found["problem"] = str(error)
        return found
    if opened is not None:
        name, (major, minor) = opened
        found |= {"card": name, "capability": f"{major}.{minor}"}
    return found


def _audio() -> dict[str, Any]:
    """Which audio formats the installed library reads and writes."""
    from kaiwa.audio_files import OUTPUT_FORMATS

    try:
        import soundfile
    except (ImportError, OSError) as error:
        return {"library": None, "problem": str(error), "writes": []}
    writes = [
        ending.lstrip(".")
        for ending, chosen in OUTPUT_FORMATS.items()
        if soundfile.check_format(chosen.container, chosen.subtype)
    ]
    return {"library": f"libsndfile {soundfile.__libsndfile_version__}", "writes": writes}

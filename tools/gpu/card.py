"""The card, its driver and its memory, as `nvidia-smi` tells; nothing where there is none."""

from __future__ import annotations

import subprocess

_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "capability": "compute_cap",
    "memory_total_mib": "memory.total",
    "memory_used_mib": "memory.used",
    "power_w": "power.draw",
    "clock_mhz": "clocks.sm",
    "temperature_c": "temperature.gpu",
}


def facts() -> dict[str, str]:
    """The first card's facts by name."""
    query = ",".join(_FIELDS.values())
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(_FIELDS, values, strict=False))


def used_mib() -> float | None:
    """Memory in use on the card, all processes."""
    found = facts().get("memory_used_mib")
    return float(found) if found else None

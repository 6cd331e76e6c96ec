"""The card, its driver and its memory, as `nvidia-smi` tells; nothing where there is none."""

from __future__ import annotations

from kaiwa.cli import nvidia_smi

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
    return nvidia_smi.query(_FIELDS)


def used_mib() -> float | None:
    """Memory in use on the card, all processes."""
    found = facts().get("memory_used_mib")
    return float(found) if found else None

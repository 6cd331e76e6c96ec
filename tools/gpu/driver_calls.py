"""Counts of calls into the driver, from the library made of driver_calls.c."""

from __future__ import annotations

import ctypes

#: In the order of the enumeration in driver_calls.c.
KINDS = (
    "launches",
    "graphs",
    "copies_to_device",
    "copies_to_host",
    "copies_on_device",
    "fills",
    "waits",
    "allocations",
    "products",
)


def available() -> bool:
    """Whether the counting library was loaded before everything else."""
    return hasattr(ctypes.CDLL(None), "kaiwa_driver_calls")


def counts() -> dict[str, int]:
    """Calls so far, by kind."""
    count = ctypes.CDLL(None).kaiwa_driver_calls
    count.restype = ctypes.c_long
    return {name: int(count(number)) for number, name in enumerate(KINDS)}

"""Times of repeated steps, and their summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def milliseconds(step: Callable[[], object], count: int, *, warm_up: int = 3) -> list[float]:
    """Times `count` calls. A step hands its tokens to the host, so the device has finished when
    it returns."""
    for _ in range(warm_up):
        step()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Median, tails and extremes, in milliseconds."""
    found = {f"p{part}": float(np.percentile(times, part)) for part in (50, 95, 99)}
    return {
        "median": round(found["p50"], 3),
        "p95": round(found["p95"], 3),
        "p99": round(found["p99"], 3),
        "min": round(min(times), 3),
        "max": round(max(times), 3),
        "count": len(times),
    }

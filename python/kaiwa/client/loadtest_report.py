"""The report of a load test, computed from the records of its calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kaiwa.client.timeline import Timeline, playback, quantile

COMPLETED = "completed"


@dataclass
class CallRecord:
    """One call.

    Attributes:
        wanted: frames that it was to exchange.
        waited: seconds from connecting to the handshake; None: it never got a slot.
        outcome: `completed`, or the word of the refusal or the close.
        lateness: of each frame, seconds after its time.
        skipped: times that passed without a frame.
        texts: pieces of text that came.
        energy: sum of the squares of the answer's samples; None: not decoded.
    """

    wanted: int
    waited: float | None = None
    outcome: str = COMPLETED
    timeline: Timeline = field(default_factory=Timeline)
    lateness: Sequence[float] = ()
    skipped: int = 0
    texts: int = 0
    energy: float | None = None


def report(records: Sequence[CallRecord], held_back: int = 0) -> dict[str, Any]:
    """Statistics of all calls together; times in milliseconds.

    Calls that got no slot count too: their frames are among those wanted, and they are not among
    the calls without fault.

    Args:
        records: the calls.
        held_back: frames that the model holds back at the end of a call (0 for Moshi).
    """
    admitted = [record for record in records if record.waited is not None]
    wanted = sum(record.wanted for record in records)
    answered = sum(min(record.timeline.came, record.wanted) for record in records)
    played = [playback(record.timeline.answered) for record in admitted]
    faultless = sum(
        record.outcome == COMPLETED
        and not record.timeline.missing(held_back)
        and not play.underruns
        for record, play in zip(admitted, played, strict=True)
    )
    summary: dict[str, Any] = {
        "calls": {
            "asked": len(records),
            "admitted": len(admitted),
            "rejected": len(records) - len(admitted),
            "without_fault": faultless,
        },
        "endings": dict(Counter(record.outcome for record in records).most_common()),
        "handshake_wait_ms": _spread([r.waited for r in admitted if r.waited is not None]),
        "frame_latency_ms": _spread([v for r in admitted for v in r.timeline.latencies()]),
        "frames": {
            "wanted": wanted,
            "sent": sum(len(record.timeline.sent) for record in records),
            "answered": answered,
            "missing": sum(record.timeline.missing(held_back) for record in records),
            "answered_of_wanted": _share(answered, wanted),
        },
        "playback_of_100_ms": {
            "underruns": sum(play.underruns for play in played),
            "calls_with_underruns": sum(play.underruns > 0 for play in played),
            "stalled_ms": _ms(sum(play.stalled for play in played)),
        },
        "send_lateness_ms": _spread([v for r in admitted for v in r.lateness]),
        "frames_skipped_by_driver": sum(record.skipped for record in records),
        "texts": sum(record.texts for record in records),
    }
    level = _level(records)
    if level is not None:
        summary["answer_level_dbfs"] = level
    return summary


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Quantiles of seconds, in milliseconds."""
    named = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: _ms(quantile(values, q)) for name, q in named.items()}


def _ms(seconds: float | None) -> float | None:
    """Milliseconds with three decimals."""
    return None if seconds is None else round(seconds * 1e3, 3)


def _share(part: int, whole: int) -> float:
    """0 of nothing is nothing."""
    return round(part / whole, 6) if whole else 0.0


def _level(records: Sequence[CallRecord]) -> float | None:
    """Level of all decoded answers in dB below full scale; None without any."""
    decoded = [r for r in records if r.energy is not None and r.timeline.samples]
    samples = sum(r.timeline.samples for r in decoded)
    if not samples:
        return None
    power = sum(r.energy or 0.0 for r in decoded) / samples
    return round(10 * math.log10(max(power, 1e-12)), 1)

"""Seconds of a call as people read them."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

#: Seconds between two marks, for calls of minutes and hours.
_MARKS = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
#: Seconds above which marks are minutes.
MINUTES = 120.0
#: Marks at most.
_MOST = 13


def clock(seconds: float) -> str:
    """As m:ss, or h:mm:ss."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{whole % 60:02d}"


def label(begin: float, end: float) -> str:
    """What the axis shows."""
    if end <= MINUTES:
        return "time in the call (s)"
    return "time in the call (h:min:s)" if end >= 3600 else "time in the call (min:s)"


def mark(axis: Axis, begin: float, end: float) -> None:
    """Sets marks on an axis that runs from a second to another."""
    if end <= MINUTES:
        axis.set_major_locator(MaxNLocator(_MOST, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    span = end - begin
    step = next((s for s in _MARKS if span / s <= _MOST), span / _MOST)
    if span < 60:
        axis.set_major_locator(MaxNLocator(_MOST, steps=[1, 2, 5, 10], integer=True))
    else:
        axis.set_major_locator(MultipleLocator(step))
    axis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))

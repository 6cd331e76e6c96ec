"""Places for labels, each of which begins at its time, in rows without overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a label stands.

    Attributes:
        index: which of the labels.
        row: 0 is the first.
        x: its left end.
        before: it ends at its time, for there was no room behind it.
    """

    index: int
    row: int
    x: float
    before: bool = False


def place(
    starts: Sequence[float], widths: Sequence[float], end: float, most: int
) -> tuple[list[Place], int]:
    """Places for as many labels as have room, and how many rows that takes.

    Args:
        starts: where each begins, in order.
        widths: how wide each is, space behind it included.
        end: nothing reaches beyond; what would stands before its time.
        most: rows at most.
    """
    free: list[float] = []
    found = []
    for index, (start, width) in enumerate(zip(starts, widths, strict=True)):
        before = start + width > end
        x = start - width if before else start
        row = next((r for r, begin in enumerate(free) if begin <= x), len(free))
        if row == most or x < 0:
            continue
        if row == len(free):
            free.append(x)
        free[row] = x + width
        found.append(Place(index, row, x, before))
    return found, len(free)

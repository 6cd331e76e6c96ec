"""Figures that notebooks show by themselves."""

from __future__ import annotations

from matplotlib.figure import Figure

from kaiwa.plotting import output


class Picture(Figure):
    """A figure of matplotlib that belongs to no window."""

    def _repr_png_(self) -> bytes:
        return output.png(self)

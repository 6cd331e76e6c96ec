"""A picture of charts side by side, for the figures of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kaiwa.plotting import glyphs, style
from kaiwa.plotting.picture import Picture
from kaiwa.plotting.steps import FRAME_MS as FRAME_MS

#: Inches.
WIDTH, HEIGHT = 12.0, 4.9
#: Dots an inch.
DPI = 150


def page(
    title: str, facts: str, headings: Sequence[str], *, height: float = HEIGHT
) -> tuple[Picture, list[Axes]]:
    """An empty picture and its charts, from left to right.

    Args:
        title: the headline.
        facts: the line below it.
        headings: one of each chart.
        height: in inches.
    """
    head, left = 0.85, 0.35
    layout = ConstrainedLayoutEngine(
        rect=(left / WIDTH, 0.15 / height, 1 - 2 * left / WIDTH, 1 - (head + 0.25) / height),
        wspace=0.06,
    )
    figure = Picture(figsize=(WIDTH, height), dpi=DPI, layout=layout)
    for text, inches, size, colour, family in (
        (title, 0.42, style.TITLE, style.INK, "DejaVu Serif"),
        (facts, 0.68, style.TEXT, style.SOFT, "DejaVu Sans"),
    ):
        figure.text(
            left / WIDTH, 1 - inches / height, glyphs.drawable(text), size=size, color=colour,
            family=family, va="baseline",
        ).set_in_layout(False)  # fmt: skip
    charts = list(figure.subplots(1, len(headings), squeeze=False)[0])
    for axes, heading in zip(charts, headings, strict=True):
        axes.set_title(heading, loc="left", size=style.HEADING, weight="bold", color=style.INK)
    return figure, charts


def frame_line(axes: Axes, *, across: bool) -> None:
    """Where a step takes as long as the audio that it makes; `across`: a level, not an instant."""
    draw = axes.axhline if across else axes.axvline
    draw(FRAME_MS, color=style.BAD, lw=0.9, ls=(0, (5, 3)), label=f"{FRAME_MS:g} ms, a frame")


def series(names: Sequence[str]) -> dict[str, str]:
    """A colour for each of several things."""
    return {name: style.SERIES[i % len(style.SERIES)] for i, name in enumerate(names)}

"""A picture of panels one below the other on one time axis, measured in inches."""

from __future__ import annotations

from dataclasses import dataclass, field

from matplotlib.axes import Axes

from kaiwa.plotting import style, time_axis
from kaiwa.plotting.picture import Picture

#: Inches.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 13.0, 0.95, 0.95, 0.95, 0.6
#: From a panel to the name of what it shows.
LABEL = 0.52
#: Between a panel and the scale of its colours, and the width of that.
SCALE_GAP, SCALE = 0.1, 0.11
#: Seconds of the shortest axis.
SHORTEST = 0.05
#: Dots an inch.
DPI = 150


@dataclass
class Sheet:
    """Panels that are laid out first, and placed when all are known.

    Attributes:
        begin, end: seconds at which the axis begins and ends.
        figure: the picture.
    """

    begin: float
    end: float
    figure: Picture = field(default_factory=lambda: Picture(dpi=DPI))
    _rows: list[tuple[Axes, float, float]] = field(default_factory=list)
    _scales: list[tuple[Axes, Axes]] = field(default_factory=list)

    @property
    def inches(self) -> float:
        """Width of a panel."""
        return WIDTH - LEFT - RIGHT

    def __post_init__(self) -> None:
        # A call of a few samples has an axis too.
        self.end = max(self.end, self.begin + SHORTEST)

    def seconds(self, points: float) -> float:
        """How long something of a width is on the axis."""
        return points / 72 / self.inches * (self.end - self.begin)

    def panel(self, height: float, gap: float) -> Axes:
        """The next panel, with so many inches between it and the one above."""
        first = self._rows[0][0] if self._rows else None
        # A place of its own until all are known, for axes at one place would be the same.
        at = (0.0, 0.01 * len(self._rows), 1.0, 0.01)
        axes = self.figure.add_axes(at, sharex=first, label=f"panel {len(self._rows)}")
        self._rows.append((axes, height, gap))
        return axes

    def scale(self, beside: Axes) -> Axes:
        """Room for the scale of a panel's colours."""
        at = (0.99, 0.01 * len(self._scales), 0.01, 0.01)
        axes = self.figure.add_axes(at, label=f"scale {len(self._scales)}")
        self._scales.append((beside, axes))
        return axes

    def finish(self) -> Picture:
        """Puts everything in its place."""
        height = TOP + BOTTOM + sum(h + gap for _, h, gap in self._rows)
        self.figure.set_size_inches(WIDTH, height)
        y = height - TOP
        for axes, high, gap in self._rows:
            y -= gap + high
            axes.set_position((LEFT / WIDTH, y / height, self.inches / WIDTH, high / height))
            axes.tick_params(axis="x", labelbottom=False, length=0)
            if axes.yaxis.label.get_rotation():
                axes.yaxis.set_label_coords(-LABEL / self.inches, 0.5)
        for beside, axes in self._scales:
            box = beside.get_position()
            axes.set_position((box.x1 + SCALE_GAP / WIDTH, box.y0, SCALE / WIDTH, box.height))
            axes.yaxis.set_label_coords((SCALE + LABEL) / SCALE, 0.5)
        last = self._rows[-1][0]
        last.set_xlim(self.begin, self.end)
        time_axis.mark(last.xaxis, self.begin, self.end)
        last.set_xlabel(time_axis.label(self.begin, self.end))
        last.tick_params(axis="x", labelbottom=True, length=3, color=style.SOFT)
        return self.figure

    def headline(self, title: str, facts: str) -> None:
        """Title and facts above the panels."""
        from matplotlib.transforms import ScaledTranslation

        def at(inches: float) -> ScaledTranslation:
            return ScaledTranslation(LEFT, -inches, self.figure.dpi_scale_trans)

        for text, inches, size, colour, family in (
            (title, 0.44, style.TITLE, style.INK, "DejaVu Serif"),
            (facts, 0.7, style.TEXT, style.SOFT, "DejaVu Sans"),
        ):
            self.figure.text(
                0, 1, text, size=size, color=colour, family=family,
                transform=self.figure.transFigure + at(inches), va="baseline",
            )  # fmt: skip

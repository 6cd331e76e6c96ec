"""Colours and lettering: those of the web page, paper and ink, indigo for the caller and vermilion
for the model (kaiwa/server/static/css/base.css)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

PAPER, CARD, SUNKEN = "#f6f1e7", "#fdfaf3", "#efe8da"
INK, SOFT, LINE = "#20242e", "#666259", "#ddd4c3"
CALLER, MODEL = "#2c5a86", "#c6402b"
GOOD, WARN, BAD = "#3c7250", "#96620b", "#b3261e"
#: For more things than two that are compared.
SERIES = (CALLER, MODEL, GOOD, WARN, "#6d5a8c", SOFT)

#: Points.
TITLE, HEADING, TEXT, SMALL = 15.0, 10.5, 9.0, 8.0

_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": INK,
    # Names of files and what is said are no formulas.
    "text.parse_math": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": CARD,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.2,
    # The same picture is the same file.
    "svg.hashsalt": "kaiwa",
    "agg.path.chunksize": 10_000,
}


@contextmanager
def drawn() -> Iterator[None]:
    """Settings of the picture that is drawn in the block, whatever those of the program are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        parameters: Any = mpl.rcParams
        for name, value in _SETTINGS.items():
            parameters[name] = value
        yield


def ink(colour: str) -> Colormap:
    """From paper to a colour, and on to the dark of it."""
    return LinearSegmentedColormap.from_list(
        f"paper-{colour}", [(0, CARD), (0.62, colour), (1, INK)]
    )


def codes() -> Colormap:
    """For numbers whose order says little: from one side's colour over paper to the other's."""
    return LinearSegmentedColormap.from_list(
        "codes", ["#16324c", CALLER, "#a9c0d4", "#f3e3c8", "#e09a7e", MODEL, "#5e1a10"]
    )


def bare(axes: Axes, *sides: str) -> None:
    """Takes lines around a panel away: those named, otherwise all but the one at the bottom."""
    for side in sides or ("left", "right", "top"):
        axes.spines[side].set_visible(False)

"""The panels of a call's picture, one function each."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kaiwa.plotting import glyphs, labels, style
from kaiwa.plotting.coding import Codes
from kaiwa.plotting.sheet import Sheet
from kaiwa.plotting.sound import Sound
from kaiwa.plotting.speech import Interval
from kaiwa.plotting.steps import FRAME_MS, Steps
from kaiwa.plotting.text import Phrase

#: dB between the colour of silence and the loudest.
RANGE = 75.0
#: dB of full scale: below that the loudest is not taken, or silence would be a loud picture.
LOUDEST = -60.0
#: A largest sample below which a waveform is drawn flat, and not its noise as large as speech.
SILENT = 1e-4
#: Inches that a row of text is high.
ROW = 0.21
#: Rows of text at most.
ROWS = 8
#: Frames that are marked one by one, at most.
MARKS = 1200
#: Columns of codes drawn at most: more than there are dots.
COLUMNS = 2048


def heading(axes: Axes, who: str, note: str, colour: str) -> None:
    """Who is seen in the panels below, and where it comes from."""
    axes.annotate(
        who, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
        color=colour, size=style.HEADING, weight="bold", va="bottom",
    )  # fmt: skip
    axes.annotate(
        note, (1, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
        color=style.SOFT, size=style.SMALL, va="bottom", ha="right",
    )  # fmt: skip


def waveform(axes: Axes, sound: Sound, colour: str) -> None:
    """The outline, and darker the root of the mean square."""
    outline = sound.outline
    t = np.append(outline.starts, sound.seconds) + sound.begin
    for low, high, alpha in (
        (outline.low, outline.high, 0.38),
        (np.maximum(-outline.rms, outline.low), np.minimum(outline.rms, outline.high), 1.0),
    ):
        # A stretch is as wide as its time, so the last value is there twice.
        axes.fill_between(
            t, np.append(low, low[-1:]), np.append(high, high[-1:]),
            step="post", color=colour, alpha=alpha, linewidth=0,
        )  # fmt: skip
    peak = float(max(np.abs(outline.low).max(), np.abs(outline.high).max()))
    top = 1.08 * peak if peak > SILENT else 1.0
    axes.set_ylim(-top, top)
    axes.yaxis.set_major_locator(MaxNLocator(3, symmetric=True, min_n_ticks=3))
    axes.axhline(0, color=style.LINE, linewidth=0.6, zorder=0)
    axes.set_ylabel("amplitude")


def spectrogram(sheet: Sheet, axes: Axes, sound: Sound, colour: str) -> None:
    """Loudness by frequency, with the scale of its colours."""
    image = sound.image
    loudest = max(float(image.decibels.max()), LOUDEST)
    norm = Normalize(loudest - RANGE, loudest)
    width = image.decibels.shape[1] * image.seconds
    axes.imshow(
        image.decibels, origin="lower", aspect="auto", cmap=style.ink(colour), norm=norm,
        extent=(sound.begin, sound.begin + width, 0, image.hertz / 1000),
        interpolation="antialiased",
    )  # fmt: skip
    axes.set_ylabel("frequency (kHz)")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    scale = _scale(sheet, axes, ScalarMappable(norm, style.ink(colour)), "level (dBFS)")
    # None so near to an end that it would touch the numbers of the panel below.
    inside = range(30 * math.ceil((loudest - RANGE + 6) / 30), math.ceil(loudest - 5), 30)
    scale.set_yticks(list(inside))


def _scale(sheet: Sheet, axes: Axes, colours: ScalarMappable, name: str) -> Axes:
    """The scale of a panel's colours, beside it."""
    scale = sheet.scale(axes)
    bar = sheet.figure.colorbar(colours, cax=scale)
    bar.outline.set_edgecolor(style.LINE)
    scale.set_ylabel(name)
    return scale


def codes(sheet: Sheet, axes: Axes, found: Codes) -> None:
    """Codes as an image, the semantic codebook at the top."""
    books, frames = found.values.shape
    every = -(-frames // COLUMNS)
    norm = Normalize(0, found.cardinality - 1)
    axes.imshow(
        found.values[:, ::every], aspect="auto", cmap=style.codes(), norm=norm,
        interpolation="nearest", extent=(found.begin, found.end, books + 0.5, 0.5),
    )  # fmt: skip
    axes.set_ylabel("codebook")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if every > 1:
        axes.annotate(
            f"one of {every} frames", (1, 0), (-4, 3), xycoords="axes fraction", ha="right",
            textcoords="offset points", size=style.SMALL, color=style.INK,
            bbox={"facecolor": style.CARD, "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    scale = _scale(sheet, axes, ScalarMappable(norm, style.codes()), "code")
    scale.set_yticks([0, found.cardinality - 1])


def turns(axes: Axes, spoken: list[tuple[str, str, list[Interval]]]) -> None:
    """Bars where a side speaks: name, colour and intervals of each."""
    for row, (_, colour, intervals) in enumerate(spoken):
        spans = [(a, b - a) for a, b in intervals]
        axes.broken_barh(spans, (row - 0.34, 0.68), color=colour, linewidth=0)
    axes.set_ylim(len(spoken) - 0.5, -0.5)
    axes.set_yticks(range(len(spoken)), [name for name, _, _ in spoken])
    for tick, (_, colour, _) in zip(axes.get_yticklabels(), spoken, strict=True):
        tick.set_color(colour)
    axes.tick_params(axis="y", length=0)


def arranged(sheet: Sheet, said: list[Phrase]) -> tuple[list[labels.Place], int]:
    """Where the phrases have room, and how many rows they take; none if most have no room."""
    gap = 9.0
    widths = [sheet.seconds(glyphs.width(glyphs.drawable(p.text), style.TEXT) + gap) for p in said]
    starts = [phrase.t - sheet.begin for phrase in said]
    places, rows = labels.place(starts, widths, sheet.end - sheet.begin, ROWS)
    return (places, rows) if 3 * len(places) >= len(said) else ([], 1)


def text(
    sheet: Sheet, axes: Axes, said: list[Phrase], places: list[labels.Place], rows: int
) -> None:
    """What is said, each phrase where it begins; marks alone if there is no place."""
    if not places:
        axes.vlines([phrase.t for phrase in said], -0.42, 0.42, color=style.MODEL, lw=0.7)
    for place in places:
        phrase = said[place.index]
        axes.vlines(phrase.t, place.row - 0.42, place.row + 0.42, color=style.MODEL, lw=0.9)
        axes.annotate(
            glyphs.drawable(phrase.text), (phrase.t, place.row),
            (-3 if place.before else 3, 0), ha="right" if place.before else "left",
            textcoords="offset points", va="center", size=style.TEXT, annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_ylabel("text", rotation=0, ha="right", va="center", color=style.MODEL)


def times(axes: Axes, steps: Steps, begin: float, end: float) -> None:
    """What each frame took, and what it may take; of long calls, of so many frames together."""
    inside = (steps.t >= begin) & (steps.t <= end)
    t, ms = steps.t[inside], steps.ms[inside]
    every = max(1, -(-len(t) // MARKS))
    if every == 1:
        late = ms > FRAME_MS
        axes.vlines(t, 0, ms, color=np.where(late, style.BAD, style.SOFT), lw=0.8, alpha=0.55)
        colours = np.where(late, style.BAD, style.INK)
        axes.scatter(t, ms, s=5, color=colours, linewidths=0, zorder=3, clip_on=False)
    else:
        _bands(axes, t, ms, every)
    axes.axhline(FRAME_MS, color=style.BAD, lw=0.9, ls=(0, (5, 3)), zorder=4)
    axes.set_ylim(0, 1.12 * max([FRAME_MS, *ms]))
    axes.annotate(
        f"{FRAME_MS:g} ms,\na frame", (1, FRAME_MS), (6, 0), va="center", color=style.BAD,
        xycoords=axes.get_yaxis_transform(), textcoords="offset points", size=style.SMALL,
        annotation_clip=False,
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y")
    axes.set_ylabel(f"{steps.what} (ms)")


def _bands(axes: Axes, t: NDArray[np.float64], ms: NDArray[np.float64], every: int) -> None:
    """Of so many frames each: the median as a line, all of them as a band, and late ones."""
    groups = [ms[start : start + every] for start in range(0, len(ms), every)]
    middle = np.array([np.median(group) for group in groups])
    low, high = (np.array([f(group) for group in groups]) for f in (np.min, np.max))
    at = t[::every]
    axes.fill_between(at, low, high, color=style.SOFT, alpha=0.3, linewidth=0)
    axes.plot(at, middle, color=style.INK, lw=1.0)
    late = high > FRAME_MS
    axes.scatter(at[late], high[late], s=4, color=style.BAD, linewidths=0, zorder=5)
    axes.annotate(
        f"{every} frames together: median, smallest and largest", (1, 1), (0, 5), ha="right",
        xycoords="axes fraction", textcoords="offset points", va="bottom", size=style.SMALL,
        color=style.SOFT,
    )  # fmt: skip

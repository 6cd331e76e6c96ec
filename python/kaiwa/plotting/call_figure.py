"""A call as a picture."""

from __future__ import annotations

import numpy as np

from kaiwa.plotting import call_panels as panels
from kaiwa.plotting import glyphs, style, text, time_axis
from kaiwa.plotting.call import Call, Side
from kaiwa.plotting.picture import Picture
from kaiwa.plotting.sheet import Sheet

#: Inches: heights of panels, and gaps above them, within a side and before a group.
WAVEFORM, SPECTROGRAM, CODEBOOK, TURN, STEPS = 0.85, 1.35, 0.1, 0.24, 1.0
WITHIN, GROUP = 0.09, 0.4


def draw(call: Call) -> Picture:
    """The picture: both sides, turns and text, and times, below each other on one time axis."""
    with style.drawn():
        sheet = Sheet(call.begin, call.end)
        colours = [_colour(side, number) for number, side in enumerate(call.sides)]
        for number, (side, colour) in enumerate(zip(call.sides, colours, strict=True)):
            _side(sheet, side, colour, GROUP if number else 0.2)
        _spoken(sheet, call, colours)
        if call.steps is not None:
            axes = sheet.panel(STEPS, GROUP)
            panels.heading(axes, call.steps.what, "", style.INK)
            panels.times(axes, call.steps, call.begin, call.end)
        sheet.headline(glyphs.drawable(call.title), facts(call))
        return sheet.finish()


def _colour(side: Side, number: int) -> str:
    """Each side its own."""
    if side.who in ("caller", "model"):
        return style.CALLER if side.who == "caller" else style.MODEL
    return (style.CALLER, style.MODEL)[number]


def _side(sheet: Sheet, side: Side, colour: str, gap: float) -> None:
    """The panels of a side."""
    first = None
    if side.sound is not None:
        first = sheet.panel(WAVEFORM, gap)
        panels.waveform(first, side.sound, colour)
        panels.spectrogram(sheet, sheet.panel(SPECTROGRAM, WITHIN), side.sound, colour)
    if side.codes is not None:
        height = min(1.7, max(0.6, CODEBOOK * len(side.codes.values)))
        axes = sheet.panel(height, gap if first is None else WITHIN)
        first = first or axes
        panels.codes(sheet, axes, side.codes)
    assert first is not None, "a side has sound or codes"
    panels.heading(first, glyphs.drawable(side.who), glyphs.drawable(side.note), colour)


def _spoken(sheet: Sheet, call: Call, colours: list[str]) -> None:
    """Who speaks when, and what the model says."""
    spoken = [
        (glyphs.drawable(side.who), colour, side.turns())
        for side, colour in zip(call.sides, colours, strict=True)
        if side.sound is not None
    ]
    inside = [piece for piece in call.pieces if call.begin <= piece.t <= call.end]
    said = text.phrases(inside)
    gap = GROUP
    if spoken:
        axes = sheet.panel(TURN * len(spoken), gap)
        panels.heading(axes, "turns", "", style.INK)
        panels.turns(axes, spoken)
        gap = WITHIN
    if said:
        places, rows = panels.arranged(sheet, said)
        axes = sheet.panel(panels.ROW * rows + 0.04, gap)
        if not spoken:
            panels.heading(axes, "text", "", style.INK)
        panels.text(sheet, axes, said, places, rows)
        if len(places) < len(said):
            shown = (
                f"{len(places)} of {len(said)} phrases have room"
                if places
                else (f"{len(said)} phrases, too many to be written")
            )
            note = f"{shown}: draw a part of the call"
            axes.annotate(
                note, (1, 0), (0, -4), xycoords="axes fraction", textcoords="offset points",
                ha="right", va="top", size=style.SMALL, color=style.SOFT,
            )  # fmt: skip


def facts(call: Call) -> str:
    """The line below the title."""
    length = call.end - call.begin
    if call.begin or not call.whole:
        parts = [f"{_seconds(call.begin)} to {_seconds(call.end)} of the call"]
    else:
        parts = [_length(length)]
    for side in call.sides:
        if side.sound is not None:
            turns = side.turns()
            share = sum(b - a for a, b in turns) / length
            count = f"{len(turns)} turn" + ("" if len(turns) == 1 else "s")
            parts.append(f"{glyphs.drawable(side.who)}: {count}, {100 * share:.0f} % of the time")
    if call.steps is not None:
        parts.append(_quantiles(call))
    return "   ·   ".join(parts)


def _length(seconds: float) -> str:
    """How long a call is."""
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.1f} s" if seconds < 60 else time_axis.clock(seconds)


def _seconds(t: float) -> str:
    """A second of the call."""
    return f"{t:g} s" if t < 60 else time_axis.clock(t)


def _quantiles(call: Call) -> str:
    """What frames took, in words."""
    assert call.steps is not None
    half, most = np.quantile(call.steps.ms, [0.5, 0.99])
    return f"{call.steps.what} p50 {half:.0f} ms, p99 {most:.0f} ms"

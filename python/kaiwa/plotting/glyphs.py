"""Characters that can be drawn, those of the font that comes with matplotlib, and their widths."""

from __future__ import annotations

import functools

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

#: Stands for a character that the font does not have.
MISSING = "□"


#: Points at which widths are taken.
_SIZE = 100


@functools.cache
def _font() -> FT2Font:
    """The font, a point of which is a pixel."""
    font = FT2Font(font_manager.findfont("DejaVu Sans"))
    font.set_size(_SIZE, 72)
    return font


@functools.cache
def _known() -> frozenset[int]:
    """Code points in the font."""
    return frozenset(_font().get_charmap())


@functools.cache
def _advance(character: str) -> float:
    """From a character to the next one, in points at a size of one point."""
    # FreeType counts in parts of 65536.
    return _font().load_char(ord(character)).linearHoriAdvance / 65536 / _SIZE


def width(text: str, size: float) -> float:
    """Points that a drawable text is wide at a size in points."""
    return size * sum(map(_advance, text))


def drawable(text: str) -> str:
    """A text on one line, what the font does not have replaced."""
    shown = (c if ord(c) in _known() else MISSING for c in " ".join(text.split()))
    return "".join(shown)

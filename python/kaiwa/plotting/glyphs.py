"""Characters that can be drawn: those of the font that comes with matplotlib."""

from __future__ import annotations

import functools

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

#: Stands for a character that the font does not have.
MISSING = "□"


@functools.cache
def _known() -> frozenset[int]:
    """Code points in the font."""
    path = font_manager.findfont("DejaVu Sans", fallback_to_default=True)
    return frozenset(FT2Font(path).get_charmap())


def drawable(text: str) -> str:
    """A text on one line, what the font does not have replaced."""
    shown = (c if ord(c) in _known() else MISSING for c in " ".join(text.split()))
    return "".join(shown)

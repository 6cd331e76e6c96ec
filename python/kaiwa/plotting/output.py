"""Pictures as files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kaiwa._atomic import replacing
from kaiwa._streams import STANDARD
from kaiwa.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Formats by the file's ending.
FORMATS = {".png": "png", ".svg": "svg"}


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's ending stands for; standard output is a PNG.

    Raises:
        InputError: another ending.
    """
    if os.fspath(path) == STANDARD:
        return "png"
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(
            f"cannot tell the format of a picture from {os.fspath(path)!r}; end it in "
            f"{' or '.join(FORMATS)}"
        )
    return FORMATS[ending]


def save(
    figure: Figure,
    path: str | os.PathLike[str],
    *,
    reading: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a picture as PNG or SVG, by the ending of `path`; it appears complete or not at all.

    Raises:
        InputError: another ending, or the file cannot be written there; `reading`, the input, must
            be another file.
    """
    form = format_of(path)
    with replacing(path, reading=reading, streamed=".png") as temporary:
        _write(figure, temporary, form)


def png(figure: Figure) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, form: str) -> None:
    """Draws, without the hour: the same picture is the same file."""
    from kaiwa.plotting import style

    stamp = {"Date": None} if form == "svg" else {"Software": "kaiwa"}
    with style.drawn():
        figure.savefig(target, format=form, dpi=figure.dpi, metadata=stamp)

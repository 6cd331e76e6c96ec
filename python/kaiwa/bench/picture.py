"""`--plot FILE`: a benchmark's figures as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kaiwa.terminal import progress

if TYPE_CHECKING:
    from kaiwa.plotting.picture import Picture


def check(path: str | None) -> None:
    """Before minutes of measuring: whether the picture can be made.

    Raises:
        InputError: matplotlib is missing, or the file's ending says no format.
    """
    if path is None:
        return
    from kaiwa import plotting
    from kaiwa.plotting import output

    plotting.require()
    output.format_of(path)


def write(path: str | None, draw: Callable[[], Picture], *, quiet: bool) -> None:
    """Writes the picture, if one is asked for."""
    if path is None:
        return
    from kaiwa import plotting

    with progress.bar("drawing", None, quiet=quiet):
        plotting.save(draw(), path)
    progress.summary(f"picture: {path}", quiet=quiet)

"""A call of arrays as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.plotting import package, sound
from kaiwa.plotting.call import Call, Side
from kaiwa.plotting.coding import Codes
from kaiwa.plotting.steps import Steps
from kaiwa.plotting.text import Piece

if TYPE_CHECKING:
    from kaiwa.plotting.picture import Picture


def plot_call(
    caller: NDArray[Any] | None = None,
    model: NDArray[Any] | None = None,
    *,
    sample_rate: int = 24_000,
    caller_codes: NDArray[Any] | None = None,
    model_codes: NDArray[Any] | None = None,
    frame_rate: float = 12.5,
    cardinality: int = 2048,
    text: Iterable[tuple[float, str]] = (),
    step_ms: Iterable[float] = (),
    title: str = "A call",
) -> Picture:
    """Draws both sides of a call, its text and what its steps took, on one time axis.

    Args:
        caller: float32 ``[n]`` in -1..1, what the caller says; None if it is not known.
        model: the same of the model.
        sample_rate: of both, in Hz.
        caller_codes: integers ``[codebooks, frames]``, as :meth:`Mimi.encode` gives them.
        model_codes: the same of the model.
        frame_rate: columns of codes, and steps, per second.
        cardinality: codes are 0 to this minus 1.
        text: of the model: seconds and piece of text, as :class:`TextEvent` has them.
        step_ms: milliseconds that the step of each frame took.
        title: the headline.

    Returns:
        A figure of matplotlib; :func:`save` writes it to a file.

    Raises:
        InputError: an array has another shape or values that are not finite, or matplotlib is not
            installed.
    """
    package.require()
    from kaiwa.plotting import call_figure

    sides = [
        Side(
            who,
            None if pcm is None else sound.of(pcm, sample_rate),
            None if codes is None else Codes(np.asarray(codes), frame_rate, cardinality),
        )
        for who, pcm, codes in (
            ("caller", caller, caller_codes),
            ("model", model, model_codes),
        )
        if pcm is not None or codes is not None
    ]
    ms = np.array(list(step_ms), np.float64)
    steps = Steps(np.arange(len(ms)) / frame_rate, ms) if len(ms) else None
    return call_figure.draw(Call(title, sides, [Piece(t, piece) for t, piece in text], steps))

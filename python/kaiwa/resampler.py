"""Sample-rate conversion of one channel, as the audio comes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native


class Resampler:
    """Converts a stream of samples from one rate to another, in bounded memory.

    The filter's delay is taken out, and after :meth:`finish` exactly ``ceil(n * to / from)``
    samples have come out for ``n`` that went in, however the input was cut into calls.

    Args:
        from_rate: Rate of the input in Hz, 1 000 to 768 000.
        to_rate: Rate of the output in Hz, 1 000 to 768 000.
        low_delay: For audio that is heard as it comes. False: a long filter, flat to 95 % of the
            lower rate's half, whose results come in blocks, at 8 kHz up to 250 ms late. True: a
            short one, flat to 85 %. Its delay, 40 samples of the lower rate or 5 ms at 8 kHz, stays
            in: the output begins with so much silence, every call gives what its input is worth,
            and :meth:`finish` the rest. For rates whose ratio is a fraction of small numbers (1000
            at most), otherwise the long one is taken.

    Raises:
        InputError: A rate is not a whole number in that range.
    """

    def __init__(self, from_rate: int, to_rate: int, *, low_delay: bool = False) -> None:
        rates = _arrays.positive("from_rate", from_rate), _arrays.positive("to_rate", to_rate)
        self._filter = _native.Resampler(*rates, low_delay)

    def process(self, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes float32 ``[N]`` and gives the samples that are ready.

        Raises:
            InputError: Wrong type or shape, or a value that is NaN or infinite.
        """
        return self._filter.process(_arrays.block(pcm))

    def finish(self) -> NDArray[np.float32]:
        """Gives the rest and returns to the beginning."""
        return self._filter.finish()

"""What is drawn of a signal: its outline and its spectrogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import InputError
from kaiwa.plotting.envelope import Envelope, Outline
from kaiwa.plotting.spectrogram import Image, Spectrogram

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """One side of a call, as it is drawn.

    Attributes:
        rate: samples per second.
        samples: how many there are.
        outline: for the waveform.
        image: its spectrogram.
        begin: second of the call at which it begins.
    """

    rate: int
    samples: int
    outline: Outline
    image: Image
    begin: float = 0.0

    @property
    def seconds(self) -> float:
        """Length."""
        return self.samples / self.rate

    @property
    def end(self) -> float:
        """Second of the call at which it ends."""
        return self.begin + self.seconds


class Listener:
    """Makes a `Sound` of a signal that comes piece by piece.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._samples = 0
        self._envelope = Envelope(rate)
        self._spectrogram = Spectrogram(rate)

    def add(self, pcm: Array) -> None:
        """The next samples, float32 `[n]`."""
        self._samples += len(pcm)
        self._envelope.add(pcm)
        self._spectrogram.add(pcm)

    def sound(self, begin: float = 0.0) -> Sound:
        """Ends the signal, which began at a second of the call."""
        outline, image = self._envelope.outline(), self._spectrogram.image()
        return Sound(self._rate, self._samples, outline, image, begin)


def of(samples: NDArray[np.floating], rate: int) -> Sound:
    """The sound of an array `[n]`, -1..1, at a rate in Hz.

    Raises:
        InputError: it is of another shape, empty, or holds values that are not finite.
    """
    pcm = np.asarray(samples, np.float32)
    if pcm.ndim != 1:
        raise InputError(
            f"the samples have shape {list(pcm.shape)}, but one side of a call is [n]; pick one "
            "row or channel"
        )
    if not len(pcm):
        raise InputError("there is no sample to draw; give at least one")
    if not np.isfinite(pcm).all():
        at = int(np.flatnonzero(~np.isfinite(pcm))[0])
        raise InputError(f"sample {at} is not finite; repair the samples before drawing them")
    if not rate >= 1:
        raise InputError(f"the rate is {rate}; give samples per second, 1 or more")
    listener = Listener(int(rate))
    listener.add(pcm)
    return listener.sound()

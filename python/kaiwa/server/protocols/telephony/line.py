"""The audio of a phone line: its samples to those of the model, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.protocols.formats import Decoder, Encoder
from kaiwa.server.protocols.telephony.provider import Encoding

#: Frames a second of the model's output.
FRAME_SECONDS = 0.08


class Line:
    """Both directions of one call, with the state of their filters."""

    def __init__(self, encoding: Encoding, rate: int, frames: int = 1) -> None:
        """A line.

        Args:
            encoding: how samples are written.
            rate: samples a second.
            frames: frames of 80 ms that are sent together.
        """
        form = encoding.at(rate)
        self._form = form
        self._swapped = encoding is Encoding.LINEAR_BE
        self._decoder, self._encoder = Decoder(form), Encoder(form)
        self._block = round(rate * FRAME_SECONDS) * form.bytes_per_sample * frames
        self._waiting = bytearray()

    def hear(self, data: bytes) -> NDArray[np.float32]:
        """Samples of the caller at 24 kHz. Of more than a second in one message only the last is
        taken, as in other protocols."""
        data = self._form.last_second(_swapped(data) if self._swapped else data)
        return self._decoder.decode(data)

    def say(self, pcm: NDArray[np.float32]) -> bytes:
        """Takes samples of the answer at 24 kHz, any number; gives whole blocks of the line."""
        self._waiting += self._encoder.encode(pcm)
        whole = len(self._waiting) // self._block * self._block
        blocks = bytes(self._waiting[:whole])
        del self._waiting[:whole]
        return _swapped(blocks) if self._swapped else blocks


def _swapped(data: bytes) -> bytes:
    """16-bit samples in the other order of bytes; a byte too many is left out."""
    return np.frombuffer(data[: len(data) // 2 * 2], ">i2").astype("<i2").tobytes()

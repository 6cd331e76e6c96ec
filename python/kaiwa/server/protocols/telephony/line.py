"""The audio of a phone line: its samples to those of the model, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kaiwa import g711
from kaiwa.resampler import Resampler
from kaiwa.server.protocols.telephony.provider import Encoding

#: Samples a second of the model, and frames a second of its output.
RATE = 24_000
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
        self._encoding = encoding
        self._heard = Resampler(rate, RATE, low_delay=True)
        self._said = Resampler(RATE, rate, low_delay=True)
        self._second = rate * encoding.bytes_per_sample
        self._block = round(self._second * FRAME_SECONDS) * frames
        self._block_samples = round(RATE * FRAME_SECONDS) * frames
        self._put_in = 0
        self._waiting = bytearray()
        self._begun = False

    def hear(self, data: bytes) -> NDArray[np.float32]:
        """Samples of the caller at 24 kHz. Of more than a second in one message only the first is
        taken, as in other protocols."""
        return self._heard.process(self._decode(data[: self._second]))

    def say(self, pcm: NDArray[np.float32]) -> bytes:
        """Takes samples of the answer at 24 kHz, any number; gives whole blocks of the line.

        The filter holds a few milliseconds back. So that a block comes out with every block that
        goes in, the first is preceded by so much silence.
        """
        self._waiting += self._encode(self._said.process(pcm))
        self._put_in += len(pcm)
        if not self._begun and self._put_in >= self._block_samples:
            self._begun = True
            lack = max(0, self._block - len(self._waiting)) // self._encoding.bytes_per_sample
            self._waiting[:0] = self._encode(np.zeros(lack, np.float32))
        whole = len(self._waiting) // self._block * self._block
        blocks = bytes(self._waiting[:whole])
        del self._waiting[:whole]
        return blocks

    def _decode(self, data: bytes) -> NDArray[np.float32]:
        if self._encoding is Encoding.MULAW or self._encoding is Encoding.ALAW:
            return g711.decode(data, _law(self._encoding))
        whole = np.frombuffer(data[: len(data) // 2 * 2], self._encoding.value)
        samples: NDArray[np.float32] = whole.astype(np.float32) / np.float32(32768)
        return samples

    def _encode(self, pcm: NDArray[np.float32]) -> bytes:
        if self._encoding is Encoding.MULAW or self._encoding is Encoding.ALAW:
            return g711.encode(pcm, _law(self._encoding))
        scaled = np.rint(np.clip(pcm, -1.0, 1.0) * np.float32(32767))
        data: bytes = scaled.astype(self._encoding.value).tobytes()
        return data


def _law(encoding: Encoding) -> g711.Law:
    return "mulaw" if encoding is Encoding.MULAW else "alaw"

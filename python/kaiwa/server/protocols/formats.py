"""Audio as protocols carry it: 16-bit PCM at several rates, and G.711."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kaiwa import g711
from kaiwa.resampler import Resampler

#: Samples a second inside of Kaiwa.
RATE = 24_000


@dataclass(frozen=True)
class AudioFormat:
    """How samples of one channel are written.

    Attributes:
        coding: `pcm` is 16 bits, signed, little-endian; the others are G.711, a byte a sample.
        rate: samples a second.
    """

    coding: Literal["pcm", "mulaw", "alaw"]
    rate: int

    @property
    def bytes_per_sample(self) -> int:
        """One or two."""
        return 2 if self.coding == "pcm" else 1

    def last_second(self, data: bytes) -> bytes:
        """What is not longer than a second, or the last second of it, cut between samples."""
        size = self.bytes_per_sample
        too_many = max(0, len(data) - self.rate * size)
        return data[-(-too_many // size) * size :]


PCM_24K = AudioFormat("pcm", 24_000)
PCM_16K = AudioFormat("pcm", 16_000)
MULAW = AudioFormat("mulaw", 8000)
ALAW = AudioFormat("alaw", 8000)


class Decoder:
    """From bytes of a format, as they come, to samples at 24 kHz.

    Attributes:
        format: of the bytes.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        #: The first byte of a sample whose second has not come.
        self._odd = b""
        self._resampler = _resampler(audio_format.rate, RATE)

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """The samples that are ready, float32 `[n]`. A sample may be cut in two."""
        if self.format.coding == "pcm":
            if self._odd or len(data) % 2:
                data = self._odd + data
                whole = len(data) // 2 * 2
                data, self._odd = data[:whole], data[whole:]
            samples = np.frombuffer(data, "<i2").astype(np.float32)
            samples /= 32768
        else:
            samples = g711.decode(data, self.format.coding)
        return samples if self._resampler is None else self._resampler.process(samples)


class Encoder:
    """From samples at 24 kHz, as they come, to bytes of a format."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._resampler = _resampler(RATE, audio_format.rate)

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """The bytes that are ready, of float32 `[n]`."""
        samples = pcm if self._resampler is None else self._resampler.process(pcm)
        if self._format.coding == "pcm":
            return np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes()
        return g711.encode(samples, self._format.coding)


def _resampler(from_rate: int, to_rate: int) -> Resampler | None:
    """A converter; None where none is needed."""
    return None if from_rate == to_rate else Resampler(from_rate, to_rate, low_delay=True)

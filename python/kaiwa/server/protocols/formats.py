"""Audio as protocols carry it: 16-bit PCM at several rates, and G.711."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kaiwa import _native


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
        self.clear()

    def clear(self) -> None:
        """Forgets what came; what comes next is another sound."""
        self._reader = _native.CodedReader(self.format.coding, self.format.rate)

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """The samples that are ready, float32 `[n]`. A sample may be cut in two."""
        return self._reader.read(data)


class Encoder:
    """From samples at 24 kHz, as they come, to bytes of a format."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._writer = _native.CodedWriter(audio_format.coding, audio_format.rate)

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """The bytes that are ready, of float32 `[n]`."""
        return self._writer.write(pcm)

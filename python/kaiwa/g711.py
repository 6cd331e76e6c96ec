"""G.711, the 8-bit audio of telephones: µ-law (North America, Japan) and A-law (elsewhere).

A byte is one sample, mostly at 8 kHz. Both laws are tables: 256 values to decode, and one byte for
every 16-bit sample to encode.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["mulaw", "alaw"]

#: What µ-law adds to a magnitude of 16 bits, so that every segment begins at a power of two.
_BIAS = 0x84
#: Largest magnitude of 14 bits that µ-law holds, without the bias.
_CLIP = 8158
#: Last magnitude of each of the eight segments: of 14 bits and with the bias, and of 13 bits.
_MULAW_ENDS = np.array([0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF])
_ALAW_ENDS = np.array([0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF])


def decode(data: bytes, law: Law) -> NDArray[np.float32]:
    """Samples of a byte each, as float32 ``[len(data)]``."""
    return _DECODED[law][np.frombuffer(data, np.uint8)]


def encode(pcm: NDArray[np.float32], law: Law) -> bytes:
    """Float32 ``[n]`` as a byte each; what is louder than full scale is clipped."""
    scaled = np.rint(np.clip(pcm, -1.0, 1.0) * np.float32(32767)).astype(np.int16)
    codes: NDArray[np.uint8] = _ENCODED[law][scaled.view(np.uint16)]
    return codes.tobytes()


def _mulaw_decoded() -> NDArray[np.int64]:
    """The 16-bit sample of each byte."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + _BIAS) << ((code >> 4) & 7)) - _BIAS
    return np.where(code & 0x80, -magnitude, magnitude)


def _alaw_decoded() -> NDArray[np.int64]:
    """The 16-bit sample of each byte."""
    code = np.arange(256) ^ 0x55
    segment = (code >> 4) & 7
    step = (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, (step + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude)


def _mulaw_encoded(sample: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte of each 16-bit sample."""
    shifted = sample >> 2
    magnitude = np.minimum(np.abs(shifted), _CLIP) + (_BIAS >> 2)
    segment = np.searchsorted(_MULAW_ENDS, magnitude)
    code: NDArray[np.int64] = (segment << 4) | ((magnitude >> (segment + 1)) & 0x0F)
    return code ^ np.where(shifted < 0, 0x7F, 0xFF)


def _alaw_encoded(sample: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte of each 16-bit sample."""
    shifted = sample >> 3
    magnitude = np.where(shifted < 0, -shifted - 1, shifted)
    segment = np.searchsorted(_ALAW_ENDS, magnitude)
    code = (segment << 4) | ((magnitude >> np.maximum(segment, 1)) & 0x0F)
    return code ^ np.where(shifted < 0, 0x55, 0xD5)


# Sample 0 first, then upward, then the negative ones: by the bits of a 16-bit sample.
_SAMPLES = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)

_DECODED: dict[Law, NDArray[np.float32]] = {
    "mulaw": (_mulaw_decoded() / 32768).astype(np.float32),
    "alaw": (_alaw_decoded() / 32768).astype(np.float32),
}
_ENCODED: dict[Law, NDArray[np.uint8]] = {
    "mulaw": _mulaw_encoded(_SAMPLES).astype(np.uint8),
    "alaw": _alaw_encoded(_SAMPLES).astype(np.uint8),
}

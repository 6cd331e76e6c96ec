"""G.711, the 8-bit audio of telephones: µ-law (North America, Japan) and A-law (elsewhere).

A byte is one sample, mostly at 8 kHz.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native

Law = Literal["mulaw", "alaw"]


def decode(data: bytes, law: Law) -> NDArray[np.float32]:
    """Samples of a byte each, as float32 ``[len(data)]``.

    Raises:
        InputError: There is no such law.
    """
    return _native.g711_decode(data, law)


def encode(pcm: NDArray[np.float32], law: Law) -> bytes:
    """Float32 ``[n]`` as a byte each; what is louder than full scale is clipped.

    Raises:
        InputError: Wrong type or shape, a value that is not finite, or there is no such law.
    """
    return _native.g711_encode(_arrays.block(pcm), law)

"""The native Ogg/Opus classes, reached through one place."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kaiwa import _native


class Writer(Protocol):
    """Samples to whole Ogg pages."""

    def write(self, pcm: NDArray[np.float32]) -> bytes:
        """Takes float32 24 kHz samples; gives the pages that are complete."""


class Reader(Protocol):
    """Ogg pages, split anyhow, to samples."""

    def read(self, data: bytes) -> NDArray[np.float32]:
        """Takes bytes; gives the float32 24 kHz samples that are complete."""


def writer() -> Writer:
    """A new stream to send; its first pages are the headers."""
    native: Any = _native
    made: Writer = native.OggOpusWriter()
    return made


def reader() -> Reader:
    """A new stream to receive."""
    native: Any = _native
    made: Reader = native.OggOpusReader()
    return made

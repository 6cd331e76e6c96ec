"""Ogg/Opus for these tests: Kaiwa's own classes, or those of the sphn package in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kaiwa import _native
from kaiwa.client import opus

NATIVE = hasattr(_native, "OggOpusWriter") and hasattr(_native, "OggOpusReader")


class Writer:
    """`OggOpusWriter` over sphn."""

    def __init__(self) -> None:
        sphn: Any = pytest.importorskip("sphn")
        self._inner = sphn.OpusStreamWriter(24_000)

    def write(self, pcm: NDArray[np.float32]) -> bytes:
        return bytes(self._inner.append_pcm(pcm))


class Reader:
    """`OggOpusReader` over sphn."""

    def __init__(self) -> None:
        sphn: Any = pytest.importorskip("sphn")
        self._inner = sphn.OpusStreamReader(24_000)

    def read(self, data: bytes) -> NDArray[np.float32]:
        return np.asarray(self._inner.append_bytes(data), np.float32)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `kaiwa.client.opus` work, whatever is installed."""
    if not NATIVE:
        monkeypatch.setattr(opus, "writer", Writer)
        monkeypatch.setattr(opus, "reader", Reader)

"""What audio files are made of: stretches of bytes that are one recording each.

The library that decodes them reads the first recording of a file and believes its header. Real
files are joined with `cat`, cut off by a full disk, written by programs that died, or carry other
streams beside the audio. This package finds the recordings and says what is odd.
"""

from __future__ import annotations

from typing import BinaryIO

from kaiwa.containers import flac, mp3, ogg, riff, sizes
from kaiwa.containers.layout import Layout, Piece, Pieces

__all__ = ["Layout", "Piece", "Pieces", "layout"]


def layout(file: BinaryIO, size: int) -> Layout:
    """Where the recordings of a file lie; a single one over all of it where nothing is known.

    Args:
        file: open for reading, seekable.
        size: its bytes.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return riff.layout(file, size)
    if head[:4] == b"fLaC":
        return flac.layout(file, size)
    if head[:4] == b"OggS":
        return ogg.layout(file, size)
    if mp3.begins(head):
        return mp3.layout(file, size)
    return sizes.layout(file, size)

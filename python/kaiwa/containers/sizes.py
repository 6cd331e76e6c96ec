"""Containers of which only the sizes are looked at: AIFF, AU, Core Audio, Wave64."""

from __future__ import annotations

from typing import BinaryIO

from kaiwa.containers.layout import Layout, Piece

_W64 = b"riff\x2e\x91\xcf\x11"
_NAMES = {b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF", b"riff": "Wave64"}
#: Chunks of a file that are walked before it counts as something else.
_MOST_CHUNKS = 10_000


def layout(file: BinaryIO, size: int) -> Layout:
    """The recordings of a file: several if files of the same kind were joined. One over all of it
    where the kind is not known."""
    recordings: list[list[Piece]] = []
    start, name = 0, ""
    while start < size:
        file.seek(start)
        head = file.read(24)
        length = _length(file, start, size, head)
        if length is None or (recordings and _NAMES.get(head[:4]) != name):
            break
        name = _NAMES[head[:4]]
        if length > size - start:
            fault = (
                f"is cut off: its header promises {length} bytes, {size - start} are there; "
                "download it again"
            )
            return Layout([[(0, size)]], fault=fault)
        recordings.append([(start, length)])
        start += length
    if len(recordings) < 2:
        return Layout([[(0, size)]])
    said = f"holds {len(recordings)} {name} files joined together; all are read"
    return Layout(recordings, warnings=(said,))


def _length(file: BinaryIO, start: int, size: int, head: bytes) -> int | None:
    """Bytes of the file that begins here, as it says itself; None if it does not."""
    if len(head) < 24:
        return None
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        length = int.from_bytes(head[4:8], "big") + 8
        return length + length % 2
    if head[:4] == b".snd":
        length = int.from_bytes(head[8:12], "big")
        return None if length == 0xFFFF_FFFF else int.from_bytes(head[4:8], "big") + length
    if head[:8] == _W64:
        return -(-int.from_bytes(head[16:24], "little") // 8) * 8
    if head[:4] == b"caff":
        return _core_audio(file, start, size)
    return None


def _core_audio(file: BinaryIO, start: int, size: int) -> int | None:
    """The same for Core Audio, which has no size of its own: the sum of its chunks."""
    at = start + 8
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        chunk = file.read(12)
        if len(chunk) < 12 or chunk[:4] == b"caff":
            return at - start if at > start + 8 else None
        length = int.from_bytes(chunk[4:12], "big")
        if length >= 1 << 62:  # "until the end"
            return None
        at += 12 + length
        if at > size:
            return at - start
    return None

"""MP3: frames without a container; a first frame of no sound may say how many follow."""

from __future__ import annotations

import struct
from typing import BinaryIO

from kaiwa.containers.layout import Layout, Piece

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
#: Thousands of bits a second, layer III: version 1, and versions 2 and 2.5.
_BITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_BITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
#: Of the frames that are promised, so many may be missing: some writers count the first one.
_SLACK = 2


def begins(head: bytes) -> bool:
    """Whether a file that begins like this may be MP3."""
    return head[:3] == b"ID3" or _frame(head[:4]) is not None


def _frame(head: bytes) -> tuple[int, int] | None:
    """Bytes of the frame, and the offset of a count of frames inside it; None: no frame."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, bits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer != 1 or rate == 3 or bits in (0, 15):
        return None
    table = _BITS_1 if version == 3 else _BITS_2
    factor = 144 if version == 3 else 72
    length = factor * table[bits] * 1000 // _RATES[version][rate] + (head[2] >> 1 & 1)
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return length, 4 + side


def layout(file: BinaryIO, size: int) -> Layout:
    """The recordings of an MP3 file: several where one with a count of its own follows another."""
    starts: list[int] = []
    promised: list[int | None] = []
    seen: list[int] = []
    #: Behind the last frame: tags that follow belong to the next recording.
    boundary = 0
    at = _skip_tag(file, 0)
    while at + 4 <= size:
        file.seek(at)
        head = file.read(4)
        frame = _frame(head)
        if frame is None:
            after = at + 128 if head[:3] == b"TAG" else _skip_tag(file, at)
            if after == at:
                break
            at = after
            continue
        length, offset = frame
        count = _count(file.read(length - 4), offset - 4)
        if count is not None or not starts:
            starts.append(boundary)
            promised.append(count)
            seen.append(0)
        if count is None:
            seen[-1] += 1
        at += length
        boundary = at
    if not starts:
        return Layout([[(0, size)]], False)
    wanted, there = promised[-1], seen[-1]
    # In the middle of a frame, or with frames missing.
    if wanted and (at > size or (there + _SLACK < wanted and at + 4 > size)):
        fault = f"is cut off: it promises {wanted} frames, {there} are there; download it again"
        return Layout([[(0, size)]], False, fault=fault)
    ends = [*starts[1:], size]
    recordings: list[list[Piece]] = [[(a, b - a)] for a, b in zip(starts, ends, strict=True)]
    warnings = []
    if len(recordings) > 1:
        warnings.append(f"holds {len(recordings)} MP3 files joined together; all are read")
    return Layout(recordings, False, tuple(warnings))


def _skip_tag(file: BinaryIO, at: int) -> int:
    """Behind an ID3 tag, if there is one."""
    file.seek(at)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return at
    a, b, c, d = head[6:10]
    return at + 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)


def _count(body: bytes, offset: int) -> int | None:
    """Frames that a first frame promises; None if it is an ordinary one, 0 if it does not say."""
    if body[offset : offset + 4] not in (b"Xing", b"Info"):
        return None
    if len(body) < offset + 12:
        return 0
    flags, count = struct.unpack_from(">II", body, offset + 4)
    return int(count) if flags & 1 else 0

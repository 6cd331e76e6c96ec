"""FLAC: its first block says how many samples follow, or zero where the writer did not know."""

from __future__ import annotations

import mmap
from typing import BinaryIO

from kaiwa.containers.layout import Layout, Piece

#: Marker and header of the first block, which is always 34 bytes long. Sixty-four bits that do not
#: occur by chance.
_BEGIN = b"fLaC\x00\x00\x00\x22"
_BEGIN_ALONE = b"fLaC\x80\x00\x00\x22"
#: Where the block's number of samples lies: the low 36 bits of these eight bytes.
_SAMPLES = slice(18, 26)
_LOW = (1 << 36) - 1
#: A frame is not longer: 65535 samples of eight channels with 32 bits.
_MOST_FRAME = 1 << 21


def layout(file: BinaryIO, size: int) -> Layout:
    """The recordings of a FLAC file: several if files were joined. Where a header does not know
    the number of samples, it is taken from the last frame and put into the header."""
    recordings: list[list[Piece]] = []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = _starts(data)
        # None where the header is damaged: then it is the library's to say so.
        ends = [*starts[1:], size] if starts else []
        for start, end in zip(starts, ends, strict=True):
            header = data[start : start + 42]
            if len(header) < 42 or int.from_bytes(header[_SAMPLES], "big") & _LOW:
                recordings.append([(start, end - start)])
                continue
            samples = _count(data, start, end)
            if samples is None:
                return Layout(
                    [[(0, size)]],
                    fault="does not say how long it is and has no whole last frame: it is cut off "
                    "or damaged; download it again",
                )
            word = int.from_bytes(header[_SAMPLES], "big") | samples
            filled = header[:18] + word.to_bytes(8, "big") + header[26:]
            recordings.append([filled, (start + 42, end - start - 42)])
    if not recordings:
        return Layout([[(0, size)]])
    warnings = []
    if len(recordings) > 1:
        warnings.append(f"holds {len(recordings)} FLAC files joined together; all are read")
    return Layout(recordings, True, tuple(warnings))


def _starts(data: mmap.mmap) -> list[int]:
    found: set[int] = set()
    for marker in (_BEGIN, _BEGIN_ALONE):
        at = data.find(marker)
        while at >= 0:
            found.add(at)
            at = data.find(marker, at + 1)
    return sorted(found)


def _count(data: mmap.mmap, start: int, end: int) -> int | None:
    """Samples of a recording, from its last frame: the one that ends with the file and whose two
    checksums are right. None if there is no such frame."""
    block = int.from_bytes(data[start + 10 : start + 12], "big")
    at = end
    while at > max(start, end - _MOST_FRAME):
        at = max(data.rfind(b"\xff\xf8", start, at), data.rfind(b"\xff\xf9", start, at))
        if at < 0:
            return None
        found = _frame(data[at : at + 24])
        if found is not None and _crc16(data[at : end - 2]) == int.from_bytes(
            data[end - 2 : end], "big"
        ):
            number, length = found
            variable = data[at + 1] & 1
            return number + length if variable else number * block + length
        at += 1  # `rfind` takes what ends before its bound
    return None


def _frame(head: bytes) -> tuple[int, int] | None:
    """Number of a frame (or of its first sample) and its length in samples; None: no header."""
    if len(head) < 8:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    if size_code == 0 or rate_code == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return None
    more = _following(head[4])
    if more is None or 5 + more + 5 > len(head):
        return None
    number = head[4] & (0x7F if more == 0 else (1 << (6 - more)) - 1)
    for byte in head[5 : 5 + more]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    at = 5 + more
    if size_code == 1:
        length = 192
    elif size_code <= 5:
        length = 576 << (size_code - 2)
    elif size_code >= 8:
        length = 256 << (size_code - 8)
    else:
        wide = size_code - 5
        length = int.from_bytes(head[at : at + wide], "big") + 1
        at += wide
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    return (number, length) if at < len(head) and _crc8(head[:at]) == head[at] else None


def _following(first: int) -> int | None:
    """Bytes that follow the first one of a number, in the manner of UTF-8."""
    ones = 8 - (first ^ 0xFF).bit_length()
    return None if ones == 1 or ones > 7 else max(0, ones - 1)


def _table(polynomial: int, bits: int) -> list[int]:
    made = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        made.append(value)
    return made


_TABLE_8, _TABLE_16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _TABLE_8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _TABLE_16[value >> 8 ^ byte]
    return value

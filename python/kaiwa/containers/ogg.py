"""Ogg: pages of one or more streams, and streams that follow each other (links of a chain)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from kaiwa.containers.layout import Layout, Piece

_HEADER = 27
_FIRST, _LAST = 2, 4
#: How the first packet of a stream of audio begins.
_AUDIO = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")


@dataclass
class _Stream:
    """One logical stream: its pages, neighbours joined."""

    audio: bool
    pieces: list[Piece] = field(default_factory=list)
    ended: bool = False

    def add(self, start: int, length: int) -> None:
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, tuple) and last[0] + last[1] == start:
            self.pieces[-1] = (last[0], last[1] + length)
        else:
            self.pieces.append((start, length))


def layout(file: BinaryIO, size: int) -> Layout:
    """The streams of audio of an Ogg file, link by link; in a link that has several the first."""
    streams: dict[int, _Stream] = {}
    chosen: list[_Stream] = []
    #: The present link's stream of audio.
    current: _Stream | None = None
    others = False
    at = 0
    in_headers = False
    file.seek(0)
    while at + _HEADER <= size:
        file.seek(at)
        header = file.read(_HEADER)
        if header[:4] != b"OggS":
            following = _next_page(file, at + 1, size)
            if following is None:
                break
            at = following
            continue
        flags, serial, count = header[5], struct.unpack_from("<I", header, 14)[0], header[26]
        lacing = file.read(count)
        body = sum(lacing)
        length = _HEADER + count + body
        if at + length > size:
            break
        if flags & _FIRST:
            if not in_headers:
                streams, current, in_headers = {}, None, True
            packet = file.read(min(body, 8))
            streams[serial] = _Stream(packet.startswith(_AUDIO))
            if streams[serial].audio and current is None:
                current = streams[serial]
                chosen.append(current)
        else:
            in_headers = False
        stream = streams.get(serial)
        if stream is not None:
            stream.add(at, length)
            stream.ended |= bool(flags & _LAST)
        others |= stream is None or stream is not current
        at += length
    if not chosen:
        return Layout([[(0, size)]])
    warnings = []
    if others:
        warnings.append("holds other streams beside the audio; the first stream of audio is read")
    if len(chosen) > 1:
        warnings.append(f"holds {len(chosen)} recordings joined together; all are read")
    if at < size or not all(stream.ended for stream in chosen):
        warnings.append("has no proper end: it may be cut off; what is there is read")
    # Without its last page a stream's length is only what its pages say so far.
    return Layout([stream.pieces for stream in chosen], False, tuple(warnings))


def _next_page(file: BinaryIO, at: int, size: int) -> int | None:
    """Where the next page begins, for files with something between pages."""
    step = 1 << 16
    while at < size:
        file.seek(at)
        found = file.read(step + 3).find(b"OggS")
        if found >= 0:
            return at + found
        at += step
    return None

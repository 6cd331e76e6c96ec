"""Recordings inside a file, and a view that reads one of them as a file of its own."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

#: A stretch of the file as (first byte, bytes), or bytes that stand in its place.
Piece = tuple[int, int] | bytes


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        recordings: the pieces of each, in order.
        known_length: whether the number of samples in the header can be believed.
        warnings: what is odd and was put right, each a sentence.
        fault: why the file must not be used as it is, or None.
    """

    recordings: Sequence[Sequence[Piece]]
    known_length: bool = True
    warnings: tuple[str, ...] = ()
    fault: str | None = None


@dataclass
class Pieces(io.RawIOBase):
    """Pieces of a file, one after the other, as a file for reading."""

    file: BinaryIO
    pieces: Sequence[Piece]
    _starts: list[int] = field(init=False)
    _size: int = field(init=False)
    _at: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        super().__init__()
        self._starts, self._size = [], 0
        for piece in self.pieces:
            self._starts.append(self._size)
            self._size += len(piece) if isinstance(piece, bytes) else piece[1]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as the pieces go; the number of bytes."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._at < self._size:
            number = bisect.bisect_right(self._starts, self._at) - 1
            piece, inside = self.pieces[number], self._at - self._starts[number]
            wanted = len(target) - done
            if isinstance(piece, bytes):
                got = piece[inside : inside + wanted]
            else:
                self.file.seek(piece[0] + inside)
                got = self.file.read(min(wanted, piece[1] - inside))
                if not got:  # the file has become shorter meanwhile
                    break
            target[done : done + len(got)] = got
            done += len(got)
            self._at += len(got)
        return done

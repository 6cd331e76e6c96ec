"""WAV: chunks with sizes that the writer fills in at the end, if it gets there."""

from __future__ import annotations

import struct
from typing import BinaryIO

from kaiwa.containers.layout import Layout, Piece

#: Sizes that a writer leaves who cannot go back to the header: pipes, mostly. The decoder takes
#: the file's own size then.
_OPEN = (0xFFFF_FFFF, 0xFFFF_FFFE, 0x7FFF_FFFF, 0x7FFF_F000, 0x8000_0000, 0xFFFF_F000)
#: Formats whose sizes in bytes say nothing of their samples.
_COMPRESSED = (0x50, 0x55)
#: Chunks that are looked at before the file counts as something else.
_MOST_CHUNKS = 10_000


def layout(file: BinaryIO, size: int) -> Layout:
    """The recordings of a WAV file: several if files were joined."""
    recordings: list[list[Piece]] = []
    warnings: list[str] = []
    known, start = True, 0
    while start + 12 <= size:
        file.seek(start)
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:12] != b"WAVE":
            break
        found = _Recording(file, start, size, head)
        if found.fault is not None:
            return Layout([[(0, size)]], fault=found.fault)
        recordings.append(found.pieces)
        known &= found.known_length
        if found.warning:
            warnings.append(found.warning)
        start = found.end
    if not recordings:
        return Layout([[(0, size)]])
    if len(recordings) > 1:
        warnings.append(f"holds {len(recordings)} WAV files joined together; all are read")
    return Layout(recordings, known, tuple(warnings))


class _Recording:
    """One RIFF file inside the file, from its first byte to where the next may begin."""

    def __init__(self, file: BinaryIO, start: int, size: int, head: bytes) -> None:
        order = ">" if head[:4] == b"RIFX" else "<"
        self.pieces: list[Piece] = [(start, size - start)]
        self.end = size
        self.known_length = True
        self.warning = ""
        self.fault: str | None = None
        long_size: int | None = None
        at = start + 12
        for _ in range(_MOST_CHUNKS):
            file.seek(at)
            chunk = file.read(8)
            if len(chunk) < 8:
                return
            name, length = struct.unpack(f"{order}4sI", chunk)
            if name == b"ds64":
                long_size = int.from_bytes(file.read(16)[8:16], "little")
            elif name == b"fmt ":
                code = int.from_bytes(file.read(2), "big" if order == ">" else "little")
                self.known_length = code not in _COMPRESSED
            elif name == b"data":
                self._data(file, (start, at, size), (length, long_size), order)
                return
            at += 8 + length + length % 2

    def _data(
        self,
        file: BinaryIO,
        places: tuple[int, int, int],
        lengths: tuple[int, int | None],
        order: str,
    ) -> None:
        """Compares what the header says of the samples with what is there."""
        start, at, size = places
        length, long_size = lengths
        there = size - at - 8
        if length == 0xFFFF_FFFF and long_size is not None:
            length = long_size
        elif length in _OPEN:
            self.known_length = False
            return
        if length == 0 and there > 0 and not _is_chunk(file, at + 8):
            # The writer never came back to fill the sizes in.
            most = min(there, 0xFFFF_FFF0)
            file.seek(start)
            header = bytearray(file.read(at + 8 - start))
            struct.pack_into(f"{order}I", header, 4, len(header) - 8 + most)
            struct.pack_into(f"{order}I", header, len(header) - 4, most)
            self.pieces = [bytes(header), (at + 8, most)]
            self.warning = (
                "says that it is empty, as when its writer did not come to an end; "
                f"the {there} bytes of samples that are there are read"
            )
            return
        if length > there:
            self.fault = (
                f"is cut off: its header promises {length} bytes of samples, {max(there, 0)} are "
                "there; download it again, or repair it with: sox --ignore-length IN.wav OUT.wav"
            )
            return
        self.end = _after(file, at + 8 + length + length % 2, size)
        self.pieces = [(start, self.end - start)]


def _is_chunk(file: BinaryIO, at: int) -> bool:
    """Whether a chunk with a name of letters begins here."""
    file.seek(at)
    name = file.read(4)
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _after(file: BinaryIO, at: int, size: int) -> int:
    """Where the next file begins: behind the chunks that follow the samples."""
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[:4] in (b"RIFF", b"RIFX", b"RF64"):
            break
        if not _is_chunk(file, at):
            return size
        length = struct.unpack("<I", chunk[4:])[0]
        at += 8 + length + length % 2
    return min(at, size)

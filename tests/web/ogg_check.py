"""Checks the Ogg/Opus stream that a browser sends."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field


def ogg_crc(page: bytes) -> int:
    """Ogg's checksum: CRC-32 without reflection, which is zlib's with the bits of bytes turned."""
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in page)
    crc = zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


@dataclass
class OggCheck:
    """What is wrong with an Ogg/Opus stream that a browser sends: nothing, it is hoped."""

    pages: int = 0
    packets: int = 0
    granule: int = 0
    serial: int | None = None
    pre_skip: int = -1
    faults: list[str] = field(default_factory=list)

    def message(self, data: bytes) -> None:
        """Checks one message, which must hold whole pages."""
        at = 0
        while at < len(data):
            if data[at : at + 4] != b"OggS" or len(data) < at + 27:
                self.faults.append(f"page {self.pages}: no page begins at {at}")
                return
            laces = data[at + 27 : at + 27 + data[at + 26]]
            end = at + 27 + len(laces) + sum(laces)
            if end > len(data):
                self.faults.append(f"page {self.pages}: goes beyond its message")
                return
            self._page(data[at:end], laces)
            at = end

    def _page(self, page: bytes, laces: bytes) -> None:
        flags, granule, serial, sequence, crc = struct.unpack_from("<BQIII", page, 5)
        body = page[27 + len(laces) :]
        wanted = ogg_crc(page[:22] + bytes(4) + page[26:])
        checks = {
            "checksum": crc == wanted,
            "sequence": sequence == self.pages,
            "serial": self.serial in (None, serial),
            "flags": flags == (2 if self.pages == 0 else 0),
            "one packet": sum(lace < 255 for lace in laces) == 1 and laces[-1] < 255,
        }
        if self.pages == 0:
            checks["OpusHead"] = body[:8] == b"OpusHead" and len(body) == 19 and body[9] == 1
            checks["granule"] = granule == 0
            self.pre_skip = int.from_bytes(body[10:12], "little")
        elif self.pages == 1:
            checks["OpusTags"] = body[:8] == b"OpusTags"
            checks["granule"] = granule == 0
        else:
            checks["granule"] = granule - self.granule in (960, 1920, 3840)
            checks["not empty"] = len(body) > 0
            self.packets += 1
        self.granule = granule
        self.serial = serial
        self.faults += [f"page {self.pages}: {name}" for name, good in checks.items() if not good]
        self.pages += 1

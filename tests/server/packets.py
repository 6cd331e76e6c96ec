"""Opus packets taken apart and put together anew (RFC 6716, section 3): senders of 20, 40 and
80 ms out of one encoder."""

from __future__ import annotations

import sphn
from tests.server.wire import FRAME, RATE, Array, pages


def stream(samples: Array) -> list[bytes]:
    """What sphn's writer gives for each 80 ms: the headers, too, with the first."""
    writer = sphn.OpusStreamWriter(RATE)
    cut = [samples[at : at + FRAME] for at in range(0, len(samples), FRAME)]
    return [bytes(writer.append_pcm(piece)) for piece in cut]


def packets(samples: Array) -> list[bytes]:
    """The packets of sphn's writer, 40 ms each."""
    found = [packet for page in pages(b"".join(stream(samples))) for packet in page.packets]
    return found[2:]


def frames(packet: bytes) -> tuple[int, list[bytes]]:
    """The configuration of a packet, and its frames."""
    code, rest = packet[0] & 3, packet[1:]
    if code == 0:
        return packet[0] & ~3, [rest]
    if code == 1:
        half = len(rest) // 2
        return packet[0] & ~3, [rest[:half], rest[half:]]
    if code == 2:
        size, at = _size(rest)
        return packet[0] & ~3, [rest[at : at + size], rest[at + size :]]
    raise AssertionError("sphn does not make such packets")


def packet(toc: int, parts: list[bytes]) -> bytes:
    """A packet of frames of various sizes."""
    if len(parts) == 1:
        return bytes([toc]) + parts[0]
    sizes = b"".join(_coded(len(part)) for part in parts[:-1])
    return bytes([toc | 3, 0x80 | len(parts)]) + sizes + b"".join(parts)


def regrouped(samples: Array, milliseconds: int) -> list[bytes]:
    """Packets of so many milliseconds, of frames of 20 ms; the loudness of the samples must make
    the encoder use such frames and one configuration throughout."""
    apart = [frames(made) for made in packets(samples)]
    (toc,) = {found for found, _ in apart}
    every = [part for _, parts in apart for part in parts]
    assert len(every) == 2 * len(apart)
    count = milliseconds // 20
    return [packet(toc, every[at : at + count]) for at in range(0, len(every), count)]


def _size(data: bytes) -> tuple[int, int]:
    """A coded size, and the bytes that it took."""
    if data[0] < 252:
        return data[0], 1
    return data[0] + 4 * data[1], 2


def _coded(size: int) -> bytes:
    if size < 252:
        return bytes([size])
    return bytes([252 + (size & 3), (size - 252 - (size & 3)) // 4])

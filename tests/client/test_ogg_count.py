"""Audio counted without decoding."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kaiwa.client import opus
from kaiwa.client.ogg_count import OggCounter, packet_samples
from kaiwa.synth import voice


def page(*packets: bytes, flags: int = 0, open_end: bool = False) -> bytes:
    """A page of whole packets; with `open_end` the last goes on in the next page."""
    lacing = bytearray()
    for i, packet in enumerate(packets):
        lacing += b"\xff" * (len(packet) // 255)
        if not (open_end and i == len(packets) - 1):
            lacing.append(len(packet) % 255)
    head = struct.pack("<4sBBQIIIB", b"OggS", 0, flags, 0, 1, 0, 0, len(lacing))
    return head + bytes(lacing) + b"".join(packets)


#: First byte and rest of packets, and their length in milliseconds (RFC 6716, table 2).
PACKETS = [
    (b"\x00", 10),
    (b"\x08", 20),
    (b"\x18", 60),
    (b"\x48", 20),
    (b"\x60", 10),
    (b"\x69", 40),
    (b"\x6a", 40),
    (b"\x80", 2.5),
    (b"\xf8", 20),
    (b"\x4b\x04", 80),
    (b"\x6b\x86", 120),
    (b"\x6b\x07", 0),
    (b"\x6b", 0),
    (b"", 0),
]


@pytest.mark.parametrize(("packet", "milliseconds"), PACKETS)
def test_lengths_of_packets(packet: bytes, milliseconds: float) -> None:
    assert packet_samples(packet) == milliseconds * 24


def test_pages_of_several_packets_and_headers() -> None:
    counter = OggCounter()
    stream = page(b"OpusHead" + bytes(11), flags=2) + page(b"OpusTags" + bytes(20))
    assert counter.feed(stream) == 0
    assert counter.feed(page(b"\x08" + bytes(60), b"\x08" + bytes(299), b"")) == 960
    assert counter.packets == 2


def test_packets_over_two_pages() -> None:
    counter = OggCounter()
    first = page(b"\x08" + bytes(9), b"\x69" + bytes(254), open_end=True)
    assert counter.feed(first) == 480
    assert counter.feed(page(bytes(20), b"\x08", flags=1)) == 960 + 480


def test_the_second_half_of_a_lost_packet_counts_nothing_wrong() -> None:
    counter = OggCounter()
    counter.feed(page(b"\x69" + bytes(254), open_end=True))
    assert counter.feed(page(b"\x08")) == 480


@pytest.mark.parametrize("split", [1, 7, 28, 1000])
def test_any_split_and_noise(split: int) -> None:
    stream = b"noise" * 9 + page(b"\x08" * 30) + b"OggOgg" * 10 + page(b"\x69" * 300) * 2
    counter = OggCounter()
    total = sum(counter.feed(stream[i : i + split]) for i in range(0, len(stream), split))
    assert total == 480 + 2 * 960
    assert counter.lost == 45 + 60


def test_a_real_stream_counts_as_it_decodes() -> None:
    writer, reader, counter = opus.writer(), opus.reader(), OggCounter()
    counted, decoded = [], []
    for frame in np.split(voice(2.0), 25):
        data = writer.write(frame)
        counted.append(counter.feed(data))
        decoded.append(len(reader.read(data)))
    assert counted == decoded
    assert sum(counted) == 48_000
    assert counter.lost == 0

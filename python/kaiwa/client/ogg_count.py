"""How much audio is in a stream of Ogg pages, without decoding it: from the lacing values of each
page and the first byte of each Opus packet (RFC 3533, RFC 6716 section 3.1)."""

from __future__ import annotations

#: Samples at 24 kHz of one Opus frame, by the upper five bits of a packet's first byte.
_FRAME_SAMPLES = (240, 480, 960, 1440) * 3 + (240, 480) * 2 + (60, 120, 240, 480) * 4
#: No packet is longer (120 ms).
_MOST = 2880


def packet_samples(packet: bytes) -> int:
    """Samples at 24 kHz of an Opus packet; 0 for bytes that are not one."""
    if not packet:
        return 0
    arbitrary = packet[1] & 63 if len(packet) > 1 else 0
    frames = (1, 2, 2, arbitrary)[packet[0] & 3]
    samples = frames * _FRAME_SAMPLES[packet[0] >> 3]
    return samples if samples <= _MOST else 0


class OggCounter:
    """Counts the samples of one stream, however it is split.

    Attributes:
        packets: Opus packets so far, without the headers.
        lost: bytes that were no page.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.lost = 0
        self._rest = b""
        self._begun = b""

    def feed(self, data: bytes) -> int:
        """Samples at 24 kHz of the packets that are complete with `data`."""
        if self._rest:
            data = self._rest + data
        at, samples, size = 0, 0, len(data)
        while size - at >= 27:
            if data[at : at + 4] != b"OggS":
                found = data.find(b"OggS", at + 1)
                skip = found if found >= 0 else size - 3
                self.lost += skip - at
                at = skip
                continue
            segments = data[at + 26]
            body = at + 27 + segments
            lacing = data[at + 27 : body]
            end = body + sum(lacing)
            if len(lacing) < segments or end > size:
                break
            samples += self._page(data[body:end], lacing, continued=bool(data[at + 5] & 1))
            at = end
        self._rest = data[at:]
        return samples

    def _page(self, body: bytes, lacing: bytes, *, continued: bool) -> int:
        """Samples of the packets that end in a page."""
        samples, start, length = 0, 0, 0
        begun = self._begun if continued else b""
        for value in lacing:
            length += value
            if value < 255:
                samples += self._packet(begun or body[start : start + min(length, 8)])
                begun, start, length = b"", start + length, 0
        # A packet that goes on in the next page: its first bytes say enough.
        self._begun = begun or body[start : start + 8] if length else b""
        return samples

    def _packet(self, head: bytes) -> int:
        """Samples of the packet that begins with `head`."""
        if head in (b"OpusHead", b"OpusTags"):
            return 0
        samples = packet_samples(head)
        self.packets += samples > 0
        return samples

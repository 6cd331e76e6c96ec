//! Packets out of Ogg pages, from senders that keep the format more or less (docs/spec/protocols.md
//! 1.2).
//!
//! Accepted: pages split over messages, several packets a page, missing header pages, any serial,
//! granule or sequence number, wrong checksums, a new stream in the middle, other streams between
//! (`ogg_streams`), and one known defect: pages whose segment table says 255 bytes though the packet
//! is longer.

use super::ogg_streams::{Belongs, OggStreams};

const CAPTURE: &[u8; 4] = b"OggS";
const HEADER: usize = 27;
/// Longest packet that is put together; Opus packets of 120 ms are at most 7664 bytes.
const MAX_PACKET: usize = 16 << 10;

/// What the reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A new stream begins: decoders forget what was before.
    Begin,
    /// One packet of audio; may be empty or damaged.
    Audio(Vec<u8>),
}

/// Reads an Ogg stream given in pieces. Memory is bounded by a page and the last piece.
#[derive(Debug, Default)]
pub struct OggReader {
    buffer: Vec<u8>,
    /// A packet whose end has not been seen.
    partial: Vec<u8>,
    /// The last page of the stream that is heard consisted of one lacing value of 255: the defect
    /// may follow.
    suspect: bool,
    streams: OggStreams,
    /// The page before was one of another stream.
    elsewhere: bool,
    skipped: u64,
}

impl OggReader {
    /// Bytes that belonged to no page, so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes the next bytes, usually one message, and appends the packets that are complete.
    pub fn read(&mut self, data: &[u8], packets: &mut Vec<Packet>) {
        self.buffer.extend_from_slice(data);
        let mut at = 0;
        loop {
            let rest = &self.buffer[at..];
            let start = find_capture(rest);
            if start > 0 {
                at += start;
                let from = at - start;
                self.stray(from, at, packets);
                continue;
            }
            let Some(page) = Page::parse(rest) else { break };
            let length = page.length;
            let (flags, lacing, body) = (page.flags, page.lacing.to_vec(), at + page.body);
            let first = flags & 2 != 0;
            let belongs = self
                .streams
                .page(page.serial, first, &rest[page.body..length]);
            at += length;
            self.elsewhere = belongs == Belongs::Other;
            if belongs == Belongs::Begins {
                self.partial.clear();
                packets.push(Packet::Begin);
            }
            if belongs != Belongs::Other {
                self.page(flags, &lacing, body, packets);
            }
        }
        self.buffer.drain(..at);
    }

    /// Bytes between pages: the tail of a packet whose page said 255, or garbage.
    fn stray(&mut self, from: usize, to: usize, packets: &mut Vec<Packet>) {
        if self.suspect && !self.elsewhere && self.partial.len() + (to - from) <= MAX_PACKET {
            self.partial.extend_from_slice(&self.buffer[from..to]);
            self.suspect = false;
            finish(&mut self.partial, packets);
        } else {
            self.skipped += (to - from) as u64;
        }
    }

    fn page(&mut self, flags: u8, lacing: &[u8], body: usize, packets: &mut Vec<Packet>) {
        let continued = flags & 1 != 0;
        if !continued && !self.partial.is_empty() {
            // The defect, with nothing between the pages: the packet was just 255 bytes long; or
            // its end was lost.
            if self.suspect {
                finish(&mut self.partial, packets);
            }
            self.partial.clear();
        }
        let mut at = body;
        // The end of a packet whose beginning was lost.
        let mut orphan = continued && self.partial.is_empty();
        for &length in lacing {
            let piece = &self.buffer[at..at + length as usize];
            at += length as usize;
            if !orphan && self.partial.len() + piece.len() <= MAX_PACKET {
                self.partial.extend_from_slice(piece);
            }
            if length < 255 {
                if !orphan {
                    finish(&mut self.partial, packets);
                }
                orphan = false;
            }
        }
        self.suspect = lacing == [255];
    }
}

/// Hands out a packet, unless it is one of the two headers.
fn finish(partial: &mut Vec<u8>, packets: &mut Vec<Packet>) {
    let packet = std::mem::take(partial);
    if packet.starts_with(b"OpusHead") || packet.starts_with(b"OpusTags") {
        return;
    }
    packets.push(Packet::Audio(packet));
}

/// Bytes before the next capture pattern, or before what may become one.
fn find_capture(data: &[u8]) -> usize {
    let whole = data.windows(4).position(|w| w == CAPTURE);
    whole.unwrap_or_else(|| {
        let tail = (1..4)
            .rev()
            .find(|n| data.len() >= *n && data.ends_with(&CAPTURE[..*n]));
        data.len() - tail.unwrap_or(0)
    })
}

struct Page<'a> {
    flags: u8,
    serial: u32,
    lacing: &'a [u8],
    /// Offset of the body.
    body: usize,
    /// Bytes of the whole page.
    length: usize,
}

impl<'a> Page<'a> {
    /// The page at the start of `data`, once all of it is there.
    fn parse(data: &'a [u8]) -> Option<Self> {
        let header = data.get(..HEADER)?;
        let body = HEADER + header[26] as usize;
        let lacing = data.get(HEADER..body)?;
        let length = body + lacing.iter().map(|l| *l as usize).sum::<usize>();
        data.get(..length)?;
        Some(Self {
            flags: header[5],
            serial: u32::from_le_bytes([header[14], header[15], header[16], header[17]]),
            lacing,
            body,
            length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(flags: u8, lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend([0; 20]);
        page.push(lacing.len() as u8);
        page.extend(lacing);
        page.extend(body);
        page
    }

    fn page_of(serial: u8, flags: u8, lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = page(flags, lacing, body);
        page[14] = serial;
        page
    }

    fn read(pieces: &[&[u8]]) -> Vec<Packet> {
        let (mut reader, mut packets) = (OggReader::default(), Vec::new());
        for piece in pieces {
            reader.read(piece, &mut packets);
        }
        packets
    }

    fn audio(bytes: &[u8]) -> Packet {
        Packet::Audio(bytes.to_vec())
    }

    #[test]
    fn packets_come_out_however_the_bytes_are_cut() {
        let mut stream = page(2, &[8], b"OpusHead");
        stream.extend(page(0, &[8], b"OpusTags"));
        stream.extend(page(0, &[2, 3], b"abcde"));
        let long = [7u8; 300];
        stream.extend(page(0, &[255, 45], &long));
        let wanted = [Packet::Begin, audio(b"ab"), audio(b"cde"), audio(&long)];
        assert_eq!(read(&[&stream]), wanted);
        for size in [1, 3, 27, 50] {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(read(&pieces), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_packet_continues_on_the_next_page() {
        let first = page(0, &[255], &[1; 255]);
        let second = page(1, &[4], &[2; 4]);
        let mut whole = vec![1u8; 255];
        whole.extend([2; 4]);
        assert_eq!(read(&[&first, &second]), [audio(&whole)]);
        // Its beginning was lost: the rest is no packet.
        let other = page(1, &[4, 1], &[2, 2, 2, 2, 9]);
        assert_eq!(read(&[&other]), [audio(&[9])]);
    }

    #[test]
    fn a_table_that_says_255_for_a_longer_packet_is_understood() {
        let long = [5u8; 300];
        let bad = page(0, &[255], &long);
        let next = page(0, &[3], b"xyz");
        assert_eq!(read(&[&bad, &next]), [audio(&long), audio(b"xyz")]);
        let exact = page(0, &[255], &[5; 255]);
        assert_eq!(read(&[&exact, &next]), [audio(&[5; 255]), audio(b"xyz")]);
    }

    #[test]
    fn pages_of_other_streams_do_not_break_a_packet_that_goes_on() {
        let mut stream = page_of(1, 2, &[8], b"OpusHead");
        stream.extend(page_of(2, 2, &[7], b"\x01vorbis"));
        stream.extend(page_of(1, 0, &[255], &[1; 255]));
        stream.extend(page_of(2, 0, &[255], &[9; 255]));
        stream.extend(page_of(1, 1, &[4], &[2; 4]));
        stream.extend(page_of(2, 1, &[3, 2], &[9; 5]));
        // Of this one the table might say too little, and it does not.
        stream.extend(page_of(1, 0, &[255], &[3; 255]));
        stream.extend(page_of(2, 0, &[1], &[9]));
        stream.extend(b"stray");
        stream.extend(page_of(1, 0, &[2], b"ab"));
        let mut whole = vec![1u8; 255];
        whole.extend([2; 4]);
        let wanted = [Packet::Begin, audio(&whole), audio(&[3; 255]), audio(b"ab")];
        assert_eq!(read(&[&stream]), wanted);
        for size in [1, 28, 300] {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(read(&pieces), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn garbage_is_skipped_and_counted() {
        let good = page(0, &[3], b"xyz");
        let mut reader = OggReader::default();
        let mut packets = Vec::new();
        reader.read(b"no pages at all", &mut packets);
        reader.read(b"Og", &mut packets);
        reader.read(b"ling", &mut packets);
        reader.read(&good, &mut packets);
        assert_eq!(packets, [audio(b"xyz")]);
        assert_eq!(reader.skipped(), 21);
    }

    #[test]
    fn memory_stays_bounded() {
        let (mut reader, mut packets) = (OggReader::default(), Vec::new());
        // A packet without end.
        let endless = page(1, &[255; 255], &[1; 255 * 255]);
        reader.read(&page(0, &[255], &[1; 255]), &mut packets);
        for _ in 0..20 {
            reader.read(&endless, &mut packets);
        }
        assert!(reader.partial.len() <= MAX_PACKET);
        for _ in 0..1000 {
            reader.read(&[0x55; 1000], &mut packets);
        }
        assert!(reader.buffer.len() < 70_000, "{}", reader.buffer.len());
    }
}

//! Which of the streams in an Ogg file is heard: the first one of Opus, and no other.
//!
//! An Ogg file may interleave the pages of several streams, told apart by a serial number, each of
//! which begins with a page that says what it is. Files that follow each other have serials of
//! their own, and so has a stream that begins anew in the middle of a call. Senders that leave the
//! headers out, or give each page another serial, are understood as long as nothing says that
//! there are several streams.

/// Serials of other streams that are remembered; a file with more of them is no call.
const MOST_OTHERS: usize = 32;
/// How the streams of other codecs begin.
const OTHER_CODECS: [&[u8]; 12] = [
    b"\x01vorbis",
    b"\x80theora",
    b"\x7fFLAC",
    b"Speex   ",
    b"fishead\0",
    b"fisbone\0",
    b"BBCD\0",
    b"\x80kate",
    b"OVP80",
    b"CELT    ",
    b"PCM     ",
    b"CMML",
];
/// Pages of a stream that nothing is known of, and none of the one that is heard: then the sender
/// has begun anew without saying so.
const STRANGE_PAGES: u32 = 25;

/// What is to be done with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belongs {
    /// It is of the stream that is heard.
    Heard,
    /// The same, and that stream begins with it.
    Begins,
    /// It is of another stream.
    Other,
}

/// What is known of the streams.
#[derive(Debug, Default)]
pub(super) struct OggStreams {
    /// The stream that is heard, if a first page has said which one it is.
    heard: Option<u32>,
    /// The one that was heard before it.
    former: Option<u32>,
    /// Streams of the present file that are not heard, and whether they are none for certain: what
    /// begins with an unknown page may be Opus without headers, if there is nothing else.
    others: Vec<(u32, bool)>,
    /// A page has come that is no stream's first: the next first one begins another file.
    under_way: bool,
    /// The stream that is heard was named by this file.
    named_here: bool,
    /// A further page of the stream that is heard has come, so the sender keeps to serials.
    proved: bool,
    /// Pages of unknown streams since the last one that was heard.
    strange: u32,
}

impl OggStreams {
    /// A page of the stream `serial`: whether it is its first, and what is in it.
    pub fn page(&mut self, serial: u32, first: bool, body: &[u8]) -> Belongs {
        if first {
            self.first_page(serial, body)
        } else {
            self.further_page(serial)
        }
    }

    fn first_page(&mut self, serial: u32, body: &[u8]) -> Belongs {
        let opus = body.starts_with(b"OpusHead");
        if self.under_way {
            self.under_way = false;
            self.named_here = false;
            self.others.clear();
        }
        if opus && (!self.named_here || self.heard == Some(serial)) {
            self.former = self.heard.filter(|former| *former != serial);
            self.named_here = true;
            return self.hear(serial);
        }
        if self.heard == Some(serial) {
            // Its number is taken by something else.
            self.heard = None;
        }
        let known = OTHER_CODECS.iter().any(|codec| body.starts_with(codec));
        self.leave_out(serial, opus || known);
        Belongs::Other
    }

    fn further_page(&mut self, serial: u32) -> Belongs {
        self.under_way = true;
        if let Some((_, certain)) = self.others.iter().find(|other| other.0 == serial) {
            return match *certain || self.heard.is_some() {
                true => Belongs::Other,
                false => self.hear(serial),
            };
        }
        let Some(heard) = self.heard else {
            return Belongs::Heard;
        };
        if serial == heard {
            (self.proved, self.strange) = (true, 0);
            return Belongs::Heard;
        }
        if self.former == Some(serial) {
            // What began meanwhile did not follow it but goes on beside it.
            self.leave_out(heard, true);
            self.former = None;
            return self.hear(serial);
        }
        if !self.proved && self.others.is_empty() {
            return Belongs::Heard;
        }
        self.strange += 1;
        if self.strange < STRANGE_PAGES {
            return Belongs::Other;
        }
        self.hear(serial)
    }

    fn hear(&mut self, serial: u32) -> Belongs {
        self.heard = Some(serial);
        self.others.retain(|other| other.0 != serial);
        (self.proved, self.strange) = (false, 0);
        Belongs::Begins
    }

    fn leave_out(&mut self, serial: u32, certain: bool) {
        self.others.retain(|other| other.0 != serial);
        if self.others.len() < MOST_OTHERS {
            self.others.push((serial, certain));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPUS: &[u8] = b"OpusHead";
    const VORBIS: &[u8] = b"\x01vorbis";
    const UNKNOWN: &[u8] = b"a codec of next year";

    /// Serials of the pages that are heard, in order. Given are pages: serial, and what a first
    /// page has in it.
    fn heard(pages: &[(u32, Option<&[u8]>)]) -> Vec<u32> {
        let mut streams = OggStreams::default();
        let mut found = Vec::new();
        for (serial, first) in pages {
            let belongs = streams.page(*serial, first.is_some(), first.unwrap_or(b"sound"));
            if belongs != Belongs::Other && first.is_none() {
                found.push(*serial);
            }
        }
        found
    }

    #[test]
    fn of_several_streams_the_first_one_of_opus_is_heard_in_any_order_of_first_pages() {
        let sound = [
            (1, None),
            (2, None),
            (3, None),
            (1, None),
            (3, None),
            (1, None),
        ];
        for firsts in [
            vec![(1, Some(OPUS)), (2, Some(VORBIS)), (3, Some(UNKNOWN))],
            vec![(2, Some(VORBIS)), (1, Some(OPUS)), (3, Some(UNKNOWN))],
            vec![(3, Some(UNKNOWN)), (2, Some(VORBIS)), (1, Some(OPUS))],
            vec![(1, Some(OPUS)), (2, Some(OPUS)), (3, Some(OPUS))],
            vec![(3, Some(VORBIS)), (1, Some(OPUS)), (2, Some(OPUS))],
        ] {
            let pages: Vec<_> = firsts.iter().copied().chain(sound).collect();
            assert_eq!(heard(&pages), [1, 1, 1], "{firsts:?}");
        }
    }

    #[test]
    fn a_stream_that_follows_is_heard_and_so_is_each_of_a_chain_of_several() {
        let link = |a, b| [(a, Some(VORBIS)), (b, Some(OPUS)), (a, None), (b, None)];
        let pages: Vec<_> = (0..5).flat_map(|n| link(10 + n, 20 + n)).collect();
        assert_eq!(heard(&pages), [20, 21, 22, 23, 24]);
        // With the same number, too.
        let again = [(7, Some(OPUS)), (7, None), (7, Some(OPUS)), (7, None)];
        assert_eq!(heard(&again), [7, 7]);
    }

    #[test]
    fn a_stream_that_begins_late_beside_the_first_is_not_heard() {
        for late in [OPUS, VORBIS, UNKNOWN] {
            let mut pages = vec![(1, Some(OPUS)), (1, None), (2, Some(late))];
            pages.extend([(1, None), (2, None), (1, None), (2, None), (1, None)]);
            assert_eq!(heard(&pages), [1, 1, 1, 1]);
        }
    }

    #[test]
    fn any_serial_is_heard_where_nothing_tells_of_several_streams() {
        assert_eq!(heard(&[(1, None), (2, None), (3, None)]), [1, 2, 3]);
        let random = [(1, Some(OPUS)), (2, None), (3, None)];
        assert_eq!(heard(&random), [2, 3]);
        // One other stream is known: what is not named is heard if there is nothing else.
        assert_eq!(
            heard(&[(1, Some(VORBIS)), (2, None), (1, None), (2, None)]),
            [2, 2]
        );
        // Without headers, but with the mark of a first page.
        assert_eq!(heard(&[(1, Some(b"\x78")), (1, None), (1, None)]), [1, 1]);
        // A stream whose number changes without a word is heard after a second.
        let mut pages = vec![(1, Some(OPUS)), (1, None)];
        pages.extend((0..STRANGE_PAGES + 2).map(|_| (2, None)));
        assert_eq!(heard(&pages), [1, 2, 2, 2]);
    }

    #[test]
    fn pages_of_an_unknown_stream_between_those_of_the_heard_one_are_not_heard() {
        let mut pages = vec![(1, Some(OPUS)), (1, None)];
        pages.extend((0..200).map(|n| (if n % 20 == 0 { 1 } else { 2 }, None)));
        assert_eq!(heard(&pages), [1; 11]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut streams = OggStreams::default();
        for serial in 0..10_000 {
            streams.page(serial, true, VORBIS);
        }
        assert_eq!(streams.others.len(), MOST_OTHERS);
    }
}

//! Opus in Ogg pages, both ways, at 24 kHz mono (libopus; docs/spec/protocols.md 1.2).

use ogg::writing::{PacketWriteEndInfo, PacketWriter};
use opusic_c::{Application, Bitrate, Channels, Decoder, Encoder, SampleRate};

use super::ogg_reader::{OggReader, Packet};
use crate::error::{Error, Result};

/// Samples of a packet that is written: 40 ms, as the reference writes them.
const PACKET: usize = 960;
/// Bits a second. The encoder runs in its low-delay mode (CELT alone): a third of the processor
/// time of the mode for voice and 4 ms less delay, for which it needs more bits to sound as good.
/// Speech of three synthetic voices: 40 kbit/s, PESQ 3.9, STOI 0.993, 0.20 ms a frame of 80 ms;
/// the mode for voice at its 24 kbit/s: 4.1, 0.988 and 0.62 ms.
const BITRATE: u32 = 40_000;
/// Samples of the longest packet there is: 120 ms.
const LONGEST: usize = 2880;
/// Samples that one call of [`OpusReader::read`] gives at most: 1 s.
const AT_ONCE: usize = 24_000;
/// Enough for any packet of 40 ms.
const MAX_BYTES: usize = 4000;
/// Ticks of the granule position, 48 kHz, for a sample at 24 kHz.
const TICKS: usize = 2;
const SERIAL: u32 = 0x4b61_6977;

fn failed(what: &'static str) -> impl Fn(opusic_c::ErrorCode) -> Error {
    move |code| Error::Opus {
        what,
        reason: code.message(),
        remedy: match code {
            opusic_c::ErrorCode::AllocFail => "free some memory and try again",
            // What the library is given was checked before.
            _ => "this is a defect of kaiwa, please report it",
        },
    }
}

/// What a call of [`OpusReader::read`] met.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReadSummary {
    /// Packets that gave audio.
    pub packets: usize,
    /// Packets that were empty, too long or damaged, and were left out.
    pub bad_packets: usize,
    /// Samples that were left out because the call had more than a second of audio.
    pub excess: usize,
    /// Bytes that belonged to no Ogg page.
    pub stray_bytes: u64,
}

/// Samples from an Ogg/Opus stream given in pieces of any size.
pub struct OpusReader {
    ogg: OggReader,
    decoder: Decoder,
    packets: Vec<Packet>,
}

impl OpusReader {
    /// A reader of a new stream.
    ///
    /// # Errors
    /// [`Error::Opus`] if the library has no memory.
    pub fn new() -> Result<Self> {
        let decoder = Decoder::new(Channels::Mono, SampleRate::Hz24000);
        Ok(Self {
            ogg: OggReader::default(),
            decoder: decoder.map_err(failed("start a decoder"))?,
            packets: Vec::new(),
        })
    }

    /// Appends the samples of `data` to `pcm`, 24 kHz mono. Never fails: what cannot be decoded
    /// is counted and left out.
    pub fn read(&mut self, data: &[u8], pcm: &mut Vec<f32>) -> ReadSummary {
        let mut summary = ReadSummary::default();
        let (stray, begin) = (self.ogg.skipped(), pcm.len());
        let mut packets = std::mem::take(&mut self.packets);
        self.ogg.read(data, &mut packets);
        let mut frame = [0.0f32; LONGEST];
        for packet in packets.drain(..) {
            let Packet::Audio(bytes) = packet else {
                // A new stream: nothing of the former one is heard in it.
                let _ = self.decoder.reset();
                continue;
            };
            // libopus takes no packet for a lost one and makes up audio.
            let samples = match bytes.is_empty() {
                true => None,
                false => self.decoder.get_nb_samples(&bytes).ok(),
            };
            let decoded = samples.filter(|n| (1..=LONGEST).contains(n)).and_then(|_| {
                let got = self
                    .decoder
                    .decode_float_to_slice(&bytes, &mut frame, false);
                got.ok().filter(|n| *n <= LONGEST)
            });
            match decoded {
                None => summary.bad_packets += 1,
                Some(n) => {
                    summary.packets += 1;
                    let room = AT_ONCE.saturating_sub(pcm.len() - begin).min(n);
                    pcm.extend_from_slice(&frame[..room]);
                    summary.excess += n - room;
                }
            }
        }
        self.packets = packets;
        summary.stray_bytes = self.ogg.skipped() - stray;
        summary
    }
}

/// An Ogg/Opus stream from samples: two header pages, then a page for each 40 ms.
pub struct OpusWriter {
    encoder: Encoder,
    pages: PacketWriter<'static, Vec<u8>>,
    pending: Vec<f32>,
    /// Samples encoded so far.
    written: u64,
    begun: bool,
}

impl OpusWriter {
    /// A writer of a new stream. `complexity` is libopus's, 0 to 10.
    ///
    /// # Errors
    /// [`Error::OptionValue`], or [`Error::Opus`] if the library has no memory.
    pub fn new(complexity: u8) -> Result<Self> {
        if complexity > 10 {
            return Err(Error::OptionValue {
                name: "complexity",
                got: complexity.to_string(),
                allowed: "0..=10".into(),
            });
        }
        let mut encoder = Encoder::new(Channels::Mono, SampleRate::Hz24000, Application::LowDelay)
            .map_err(failed("start an encoder"))?;
        encoder
            .set_bitrate(Bitrate::Value(BITRATE))
            .map_err(failed("set the encoder's bit rate"))?;
        encoder
            .set_complexity(complexity)
            .map_err(failed("set the encoder's complexity"))?;
        Ok(Self {
            encoder,
            pages: PacketWriter::new(Vec::new()),
            pending: Vec::with_capacity(2 * PACKET),
            written: 0,
            begun: false,
        })
    }

    /// Encodes `pcm` (24 kHz mono); gives whole pages, the two header pages before the first.
    /// What does not fill 40 ms waits for the next call.
    ///
    /// # Errors
    /// [`Error::Opus`] if the library refuses.
    pub fn write(&mut self, pcm: &[f32]) -> Result<Vec<u8>> {
        self.pending.extend_from_slice(pcm);
        if !self.begun {
            self.begin()?;
        }
        let whole = self.pending.len() / PACKET * PACKET;
        let mut bytes = [0u8; MAX_BYTES];
        for start in (0..whole).step_by(PACKET) {
            let samples = &self.pending[start..start + PACKET];
            let length = self
                .encoder
                .encode_float_to_slice(samples, &mut bytes)
                .map_err(failed("encode"))?;
            self.written += (PACKET * TICKS) as u64;
            self.page(bytes[..length].to_vec(), self.written);
        }
        self.pending.drain(..whole);
        Ok(std::mem::take(self.pages.inner_mut()))
    }

    /// Samples that wait for the rest of their packet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn begin(&mut self) -> Result<()> {
        let look_ahead = self
            .encoder
            .get_look_ahead()
            .map_err(failed("ask for the encoder's delay"))?;
        let mut head = b"OpusHead\x01\x01".to_vec();
        head.extend(((look_ahead as usize * TICKS) as u16).to_le_bytes());
        head.extend(48_000u32.to_le_bytes());
        head.extend([0, 0, 0]);
        let mut tags = b"OpusTags".to_vec();
        tags.extend(5u32.to_le_bytes());
        tags.extend(b"Kaiwa");
        tags.extend(0u32.to_le_bytes());
        self.page(head, 0);
        self.page(tags, 0);
        self.begun = true;
        Ok(())
    }

    fn page(&mut self, packet: Vec<u8>, granule: u64) {
        // Writing to memory does not fail.
        let _ = self
            .pages
            .write_packet(packet, SERIAL, PacketWriteEndInfo::EndPage, granule);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn tone(samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|i| (i as f32 * 0.08).sin() * 0.3)
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (mut writer, mut reader) = (OpusWriter::new(5).unwrap(), OpusReader::new().unwrap());
        let input = tone(24_000);
        let mut output = Vec::new();
        for frame in input.chunks(1920) {
            let bytes = writer.write(frame).unwrap();
            let summary = reader.read(&bytes, &mut output);
            assert_eq!((summary.bad_packets, summary.stray_bytes), (0, 0));
        }
        assert_eq!(writer.pending(), 0);
        assert_eq!(output.len(), input.len());
        let energy: f32 = input[4800..20_000].iter().map(|x| x * x).sum();
        let error = |delay: usize| -> f32 {
            let pairs = (4800..20_000).map(|i| (output[i + delay] - input[i]).powi(2));
            pairs.sum::<f32>() / energy
        };
        // A period of the tone is 79 samples; the delay, encoder and decoder, is 2.5 ms.
        let best = (20..99).min_by(|a, b| error(*a).total_cmp(&error(*b)));
        assert!((55..65).contains(&best.unwrap()), "{best:?}");
        assert!(error(best.unwrap()) < 0.05, "{}", error(best.unwrap()));
    }

    #[test]
    fn a_strict_reader_accepts_the_pages() {
        let mut writer = OpusWriter::new(5).unwrap();
        let mut bytes = writer.write(&[]).unwrap();
        let headers = bytes.len();
        bytes.extend(writer.write(&tone(1920)).unwrap());
        let mut strict = ogg::PacketReader::new(std::io::Cursor::new(bytes));
        let mut granules = Vec::new();
        while let Some(packet) = strict.read_packet().unwrap() {
            assert!(packet.last_in_page() && packet.first_in_page());
            assert_eq!(packet.first_in_stream(), granules.is_empty());
            granules.push(packet.absgp_page());
        }
        assert_eq!(granules, [0, 0, 1920, 3840]);
        assert_eq!(headers, 27 + 1 + 19 + 27 + 1 + 21);
    }

    #[test]
    fn empty_and_damaged_packets_are_left_out() {
        let mut reader = OpusReader::new().unwrap();
        let mut pages = PacketWriter::new(Vec::new());
        let head = b"OpusHead".to_vec();
        for packet in [head, vec![], vec![0xff; 3], vec![0x03, 0x3f]] {
            pages
                .write_packet(packet, 1, PacketWriteEndInfo::EndPage, 0)
                .unwrap();
        }
        let mut pcm = Vec::new();
        let summary = reader.read(&pages.into_inner(), &mut pcm);
        assert_eq!((summary.packets, summary.bad_packets), (0, 3));
        assert!(pcm.is_empty());
    }

    #[test]
    fn damaged_streams_give_finite_audio_and_no_panic() {
        let mut writer = OpusWriter::new(0).unwrap();
        let whole = writer.write(&tone(9600)).unwrap();
        // A generator of its own, so that every run sees the same streams.
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random(6) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => drop(bytes.drain(at..(at + 1 + random(60)).min(bytes.len()))),
                    _ => {
                        let piece = bytes[at..(at + 1 + random(300)).min(bytes.len())].to_vec();
                        let to = random(bytes.len());
                        bytes.splice(to..to, piece);
                    }
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let (mut reader, mut pcm) = (OpusReader::new().unwrap(), Vec::new());
            for piece in bytes.chunks(1 + random(700)) {
                reader.read(piece, &mut pcm);
            }
            assert!(pcm.iter().all(|sample| sample.is_finite()));
            // Doubled pieces make it longer, by what is in them.
            assert!(pcm.len() <= 4 * 9600 + 6 * LONGEST);
        }
    }

    #[test]
    fn only_a_lack_of_memory_asks_for_memory() {
        let lack = failed("encode")(opusic_c::ErrorCode::AllocFail).to_string();
        assert!(lack.contains("cannot encode (Opus)") && lack.contains("free some memory"));
        let defect = failed("encode")(opusic_c::ErrorCode::Internal).to_string();
        assert!(!defect.contains("memory") && defect.contains("please report it"));
    }

    #[test]
    fn a_message_gives_a_second_at_most() {
        let (mut writer, mut reader) = (OpusWriter::new(0).unwrap(), OpusReader::new().unwrap());
        let bytes = writer.write(&tone(48_000)).unwrap();
        let mut pcm = Vec::new();
        let summary = reader.read(&bytes, &mut pcm);
        assert_eq!((pcm.len(), summary.excess), (24_000, 24_000));
    }
}

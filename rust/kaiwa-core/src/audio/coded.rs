//! Samples as protocols carry them that have no codec of their own: 16 bits or G.711, at a rate that
//! is converted with little delay.

use super::g711::{self, Law};
use super::resample::Resampler;
use crate::error::Result;

/// Samples a second inside of Kaiwa.
const RATE: usize = 24_000;

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// 16 bits, signed, little-endian.
    Pcm16,
    /// G.711, a byte.
    G711(Law),
}

/// From bytes, as they come, to samples at 24 kHz.
pub struct CodedReader {
    coding: Coding,
    resampler: Resampler,
    /// The first byte of a sample whose second has not come.
    odd: Option<u8>,
}

impl CodedReader {
    /// A reader of samples with a rate in Hz.
    ///
    /// # Errors
    /// [`crate::Error::OptionValue`] for a rate that [`Resampler`] does not take.
    pub fn new(coding: Coding, rate: usize) -> Result<Self> {
        Ok(Self {
            coding,
            resampler: Resampler::low_delay(rate, RATE)?,
            odd: None,
        })
    }

    /// Takes bytes, cut anywhere, and gives the samples that are ready.
    ///
    /// # Errors
    /// As for [`Resampler::process`]; not for what the bytes hold.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<f32>> {
        let mut pcm = Vec::with_capacity(bytes.len());
        match self.coding {
            Coding::G711(law) => g711::decode(law, bytes, &mut pcm),
            Coding::Pcm16 => self.read_pcm16(bytes, &mut pcm),
        }
        self.resampler.process_checked(pcm)
    }

    fn read_pcm16(&mut self, mut bytes: &[u8], pcm: &mut Vec<f32>) {
        let value = |low: u8, high: u8| f32::from(i16::from_le_bytes([low, high])) / 32768.0;
        if let (Some(low), Some((high, rest))) = (self.odd, bytes.split_first()) {
            pcm.push(value(low, *high));
            (self.odd, bytes) = (None, rest);
        }
        let pairs = bytes.chunks_exact(2);
        if let [low] = pairs.remainder() {
            self.odd = Some(*low);
        }
        pcm.extend(pairs.map(|pair| value(pair[0], pair[1])));
    }
}

/// From samples at 24 kHz, as they come, to bytes.
pub struct CodedWriter {
    coding: Coding,
    resampler: Resampler,
}

impl CodedWriter {
    /// A writer of samples with a rate in Hz.
    ///
    /// # Errors
    /// As for [`CodedReader::new`].
    pub fn new(coding: Coding, rate: usize) -> Result<Self> {
        let resampler = Resampler::low_delay(RATE, rate)?;
        Ok(Self { coding, resampler })
    }

    /// Takes samples and gives the bytes that are ready; what is louder than full scale is clipped.
    ///
    /// # Errors
    /// [`crate::Error::Sample`] for values that are no audio: nothing has changed then.
    pub fn write(&mut self, pcm: &[f32]) -> Result<Vec<u8>> {
        let samples = self.resampler.process(pcm)?;
        Ok(match self.coding {
            Coding::G711(law) => g711::encode(law, &samples),
            // A cast keeps to the range of its type.
            Coding::Pcm16 => samples
                .iter()
                .flat_map(|x| ((x * 32767.0).round_ties_even() as i16).to_le_bytes())
                .collect(),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const MU: Coding = Coding::G711(Law::Mu);

    fn tone(rate: usize, samples: usize) -> Vec<f32> {
        let step = 300.0 / rate as f64 * std::f64::consts::TAU;
        (0..samples)
            .map(|i| 0.5 * (i as f64 * step).sin() as f32)
            .collect()
    }

    #[test]
    fn what_is_written_is_read_whatever_the_cut() {
        for (coding, rate, width) in [
            (Coding::Pcm16, 24_000, 2),
            (Coding::Pcm16, 16_000, 2),
            (MU, 8000, 1),
            (Coding::G711(Law::A), 8000, 1),
        ] {
            let pcm = tone(RATE, 4800);
            let bytes = CodedWriter::new(coding, rate).unwrap().write(&pcm).unwrap();
            assert_eq!(bytes.len(), pcm.len() * rate / RATE * width);
            let read = |piece: usize| {
                let mut reader = CodedReader::new(coding, rate).unwrap();
                let parts = bytes.chunks(piece).map(|part| reader.read(part).unwrap());
                parts.collect::<Vec<_>>().concat()
            };
            let once = read(10_000);
            assert_eq!(once, read(3));
            assert_eq!(once.len(), pcm.len());
            // Both filters are late by 40 samples of the lower rate.
            let late = if rate == RATE {
                0
            } else {
                2 * 40 * RATE / rate
            };
            for (got, want) in once[late..].iter().zip(&pcm).skip(500) {
                assert!((got - want).abs() < 0.02, "{coding:?} {rate}: {got} {want}");
            }
        }
    }

    #[test]
    fn sixteen_bits_are_the_numbers_that_they_are() {
        let mut reader = CodedReader::new(Coding::Pcm16, RATE).unwrap();
        assert_eq!(reader.read(&[0]).unwrap(), [0.0; 0]);
        assert_eq!(
            reader.read(&[0x80, 0xff, 0x7f]).unwrap(),
            [-1.0, 32767.0 / 32768.0]
        );
        let mut writer = CodedWriter::new(Coding::Pcm16, RATE).unwrap();
        let loud = writer.write(&[0.5, 2.0, -2.0]).unwrap();
        assert_eq!(loud, [0x00, 0x40, 0xff, 0x7f, 0x00, 0x80]);
    }

    #[test]
    fn what_is_no_audio_is_refused_and_changes_nothing() {
        let mut writer = CodedWriter::new(MU, 8000).unwrap();
        let mut other = CodedWriter::new(MU, 8000).unwrap();
        let pcm = tone(RATE, 480);
        assert_eq!(writer.write(&pcm).unwrap(), other.write(&pcm).unwrap());
        assert!(writer.write(&[f32::NAN]).is_err());
        assert_eq!(writer.write(&pcm).unwrap(), other.write(&pcm).unwrap());
        assert!(CodedReader::new(MU, 0).is_err());
    }
}

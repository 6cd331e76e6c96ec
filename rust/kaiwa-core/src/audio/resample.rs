//! Sample-rate conversion of one channel in bounded memory, over the `rubato` crate.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use crate::error::{Error, Result};

/// Input frames of an FFT block: long enough for a steep filter (the pass band reaches about 97 %
/// of the lower rate's half), short enough to run as the audio comes.
const BLOCK: usize = 1024;

/// Rates accepted on either side, in Hz.
const RATES: std::ops::RangeInclusive<usize> = 1_000..=768_000;

/// Converts a stream of samples from one rate to another.
///
/// The filter's delay is taken out, and after [`Self::finish`] exactly `ceil(n * to / from)`
/// samples have come out for `n` that went in. The result does not depend on how the input was
/// cut into calls.
pub struct Resampler {
    from: usize,
    to: usize,
    /// Absent when the rates are equal.
    fft: Option<Fft<f32>>,
    pending: Vec<f32>,
    /// Output samples still to be dropped from the front: the filter's delay.
    skip: usize,
    taken: usize,
    given: usize,
}

impl Resampler {
    /// A converter between two rates in Hz, each in 1 000..=768 000.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a rate outside that range.
    pub fn new(from: usize, to: usize) -> Result<Self> {
        let wrong = |name, got: String| Error::OptionValue {
            name,
            got,
            allowed: format!("a sample rate of {}..={} Hz", RATES.start(), RATES.end()),
        };
        for (name, rate) in [("from_rate", from), ("to_rate", to)] {
            if !RATES.contains(&rate) {
                return Err(wrong(name, rate.to_string()));
            }
        }
        let fft = match from == to {
            true => None,
            false => Some(
                Fft::new_custom(
                    from,
                    to,
                    BLOCK,
                    1,
                    1,
                    WindowFunction::BlackmanHarris2,
                    FixedSync::Both,
                )
                .map_err(|e| wrong("to_rate", format!("{to} from {from} ({e})")))?,
            ),
        };
        let skip = fft.as_ref().map_or(0, |f| f.output_delay());
        Ok(Self {
            from,
            to,
            fft,
            pending: vec![],
            skip,
            taken: 0,
            given: 0,
        })
    }

    /// Takes samples and gives those that are ready.
    ///
    /// # Errors
    /// [`Error::Resample`] if the library refuses a block (not known to happen).
    pub fn process(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        self.taken += pcm.len();
        let out = self.convert(pcm)?;
        self.given += out.len();
        Ok(out)
    }

    /// Gives the rest and returns to the beginning.
    ///
    /// # Errors
    /// As for [`Self::process`].
    pub fn finish(&mut self) -> Result<Vec<f32>> {
        let wanted = (self.taken * self.to).div_ceil(self.from) - self.given;
        let mut rest = vec![];
        while rest.len() < wanted {
            let silence = vec![0.0; BLOCK];
            rest.extend(self.convert(&silence)?);
        }
        rest.truncate(wanted);
        *self = Self::new(self.from, self.to)?;
        Ok(rest)
    }

    fn convert(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        let Some(fft) = &mut self.fft else {
            return Ok(pcm.to_vec());
        };
        self.pending.extend_from_slice(pcm);
        let block = fft.input_frames_next();
        let (mut out, mut done) = (vec![], 0);
        while self.pending.len() - done >= block {
            let refused = |e: String| Error::Resample {
                from: self.from,
                to: self.to,
                reason: e,
            };
            let input = InterleavedSlice::new(&self.pending[done..done + block], 1, block)
                .map_err(|e| refused(e.to_string()))?;
            let samples = fft
                .process(&input, None)
                .map_err(|e| refused(e.to_string()))?
                .take_data();
            let drop = self.skip.min(samples.len());
            self.skip -= drop;
            out.extend_from_slice(&samples[drop..]);
            done += block;
        }
        self.pending.drain(..done);
        Ok(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sine(rate: usize, hz: f64, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|i| (i as f64 * hz / rate as f64 * std::f64::consts::TAU).sin() as f32 * 0.5)
            .collect()
    }

    fn all(from: usize, to: usize, pcm: &[f32], chunk: usize) -> Vec<f32> {
        let mut r = Resampler::new(from, to).unwrap();
        let mut out = vec![];
        for piece in pcm.chunks(chunk) {
            out.extend(r.process(piece).unwrap());
        }
        out.extend(r.finish().unwrap());
        out
    }

    #[test]
    fn a_sine_stays_the_same_sine() {
        for (from, to) in [
            (44_100, 24_000),
            (16_000, 24_000),
            (8_000, 24_000),
            (24_000, 48_000),
            (24_000, 44_100),
        ] {
            let out = all(from, to, &sine(from, 440.0, from), 1000);
            assert_eq!(out.len(), to);
            let want = sine(to, 440.0, to);
            // The ends ring against the silence outside.
            for i in to / 10..to * 9 / 10 {
                assert!(
                    (out[i] - want[i]).abs() < 2e-4,
                    "{from} {to} {i}: {} {}",
                    out[i],
                    want[i]
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_represented_is_removed() {
        let out = all(48_000, 24_000, &sine(48_000, 17_000.0, 48_000), 4096);
        let worst = out[2400..21_600].iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(worst < 0.5e-4, "{worst}: 80 dB below the input");
    }

    #[test]
    fn length_is_exact_and_cutting_changes_nothing() {
        for (from, to) in [
            (44_100, 24_000),
            (24_000, 22_050),
            (11_025, 24_000),
            (24_000, 24_000),
        ] {
            for n in [0, 1, 7, 999, 5000] {
                let pcm = sine(from, 300.0, n);
                let once = all(from, to, &pcm, 5000);
                assert_eq!(once.len(), (n * to).div_ceil(from), "{from} {to} {n}");
                assert_eq!(once, all(from, to, &pcm, 13));
            }
        }
    }

    #[test]
    fn starts_anew_after_the_end() {
        let mut r = Resampler::new(16_000, 24_000).unwrap();
        let pcm = sine(16_000, 200.0, 3000);
        let mut first = r.process(&pcm).unwrap();
        first.extend(r.finish().unwrap());
        let mut second = r.process(&pcm).unwrap();
        second.extend(r.finish().unwrap());
        assert_eq!(first, second);
    }

    #[test]
    fn absurd_rates_are_refused() {
        assert!(Resampler::new(0, 24_000).is_err());
        assert!(Resampler::new(24_000, 1_000_000).is_err());
    }
}

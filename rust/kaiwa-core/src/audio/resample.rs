//! Sample-rate conversion of one channel in bounded memory: over the `rubato` crate, or with little
//! delay.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use super::short_filter::ShortFilter;
use crate::error::{Error, Result};

/// Frames of an FFT block, counted at the lower of the two rates: long enough for a steep filter
/// (flat to 95 % of that rate's half), short enough to run as the audio comes.
const BLOCK: usize = 1024;

/// Rates accepted on either side, in Hz.
const RATES: std::ops::RangeInclusive<usize> = 1_000..=768_000;

/// Converts a stream of samples from one rate to another.
///
/// The filter's delay is taken out, and after [`Self::finish`] exactly `ceil(n * to / from)`
/// samples have come out for `n` that went in; [`Self::low_delay`] says what is different there.
/// The result does not depend on how the input was cut into calls.
pub struct Resampler(Method);

enum Method {
    /// The rates are equal.
    Same,
    Long(Box<LongFilter>),
    Short(ShortFilter),
}

impl Resampler {
    /// A converter between two rates in Hz, each in 1 000..=768 000.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a rate outside that range.
    pub fn new(from: usize, to: usize) -> Result<Self> {
        check_rates(from, to)?;
        Ok(Self(match from == to {
            true => Method::Same,
            false => Method::Long(Box::new(LongFilter::new(from, to)?)),
        }))
    }

    /// A converter for audio that is heard as it comes, with a short filter, flat to 85 % of the
    /// lower rate's half. Its delay, 40 samples of the lower rate, stays in: the output begins with
    /// so much silence, every call gives what its input is worth, and [`Self::finish`] the rest.
    /// Rates whose ratio is no fraction of numbers up to 1000 get the filter of [`Self::new`].
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn low_delay(from: usize, to: usize) -> Result<Self> {
        check_rates(from, to)?;
        match ShortFilter::new(from, to) {
            Some(filter) if from != to => Ok(Self(Method::Short(filter))),
            _ => Self::new(from, to),
        }
    }

    /// Takes samples and gives those that are ready.
    ///
    /// # Errors
    /// [`Error::Sample`] for values that are no audio: nothing has changed then.
    /// [`Error::Resample`] if the library refuses a block (not known to happen).
    pub fn process(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        super::samples::check("pcm", 0, pcm)?;
        match &mut self.0 {
            Method::Same => Ok(pcm.to_vec()),
            Method::Long(filter) => filter.process(pcm),
            Method::Short(filter) => Ok(filter.process(pcm)),
        }
    }

    /// [`Self::process`] of samples that are known to be audio.
    ///
    /// # Errors
    /// [`Error::Resample`], likewise.
    pub(super) fn process_checked(&mut self, pcm: Vec<f32>) -> Result<Vec<f32>> {
        match &mut self.0 {
            Method::Same => Ok(pcm),
            Method::Long(filter) => filter.process(&pcm),
            Method::Short(filter) => Ok(filter.process(&pcm)),
        }
    }

    /// Gives the rest and returns to the beginning.
    ///
    /// # Errors
    /// As for [`Self::process`].
    pub fn finish(&mut self) -> Result<Vec<f32>> {
        match &mut self.0 {
            Method::Same => Ok(vec![]),
            Method::Long(filter) => filter.finish(),
            Method::Short(filter) => Ok(filter.finish()),
        }
    }
}

fn wrong_rate(name: &'static str, got: String) -> Error {
    Error::OptionValue {
        name,
        got,
        allowed: format!("a sample rate of {}..={} Hz", RATES.start(), RATES.end()),
    }
}

fn check_rates(from: usize, to: usize) -> Result<()> {
    for (name, rate) in [("from_rate", from), ("to_rate", to)] {
        if !RATES.contains(&rate) {
            return Err(wrong_rate(name, rate.to_string()));
        }
    }
    Ok(())
}

/// A steep filter in blocks, without delay in its result.
struct LongFilter {
    from: usize,
    to: usize,
    fft: Fft<f32>,
    pending: Vec<f32>,
    /// Output samples still to be dropped from the front: the filter's delay.
    skip: usize,
    taken: usize,
    given: usize,
}

impl LongFilter {
    fn new(from: usize, to: usize) -> Result<Self> {
        let fft = Fft::new_custom(
            from,
            to,
            block_size(from, to),
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(|e| wrong_rate("to_rate", format!("{to} from {from} ({e})")))?;
        let skip = fft.output_delay();
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

    fn process(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        self.taken += pcm.len();
        let out = self.convert(pcm)?;
        self.given += out.len();
        Ok(out)
    }

    fn finish(&mut self) -> Result<Vec<f32>> {
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
        self.pending.extend_from_slice(pcm);
        let fft = &mut self.fft;
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

/// Input frames of a block: at least [`BLOCK`] frames at the lower rate, and an even number of the
/// smallest blocks that are whole on both sides. With an odd number the filter's delay, half a
/// block, would not be a whole number of output samples, and the result would be late by a part
/// of one.
fn block_size(from: usize, to: usize) -> usize {
    let unit = gcd(from, to);
    let smallest = BLOCK.div_ceil(from.min(to) / unit);
    smallest.next_multiple_of(2) * (from / unit)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RATES_TO_TRY: [(usize, usize); 10] = [
        (44_100, 24_000),
        (22_050, 24_000),
        (11_025, 24_000),
        (16_000, 24_000),
        (8_000, 24_000),
        (96_000, 24_000),
        (192_000, 24_000),
        (24_000, 48_000),
        (24_000, 44_100),
        (24_000, 8_000),
    ];

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

    /// Largest difference from the same sine at the new rate, over its amplitude, away from the
    /// ends, which ring against the silence outside.
    fn error(from: usize, to: usize, hz: f64) -> f32 {
        let out = all(from, to, &sine(from, hz, 2 * from), 1000);
        let want = sine(to, hz, 2 * to);
        assert_eq!(out.len(), want.len());
        let middle = to / 2..to * 3 / 2;
        middle.fold(0.0, |worst, i| (out[i] - want[i]).abs().max(worst)) / 0.5
    }

    #[test]
    fn a_sine_stays_the_same_sine() {
        for (from, to) in RATES_TO_TRY {
            let half = from.min(to) as f64 / 2.0;
            for part in [0.05, 0.5, 0.9] {
                let error = error(from, to, half * part);
                assert!(error < 1e-5, "{from} to {to}, {part} of the band: {error}");
            }
            let error = error(from, to, half * 0.95);
            assert!(error < 1e-4, "{from} to {to}, edge of the band: {error}");
        }
    }

    #[test]
    fn what_cannot_be_represented_is_removed() {
        for (from, to) in RATES_TO_TRY.into_iter().filter(|(from, to)| from > to) {
            for part in [1.01, 1.1, 1.5] {
                let hz = to as f64 / 2.0 * part;
                if hz > from as f64 / 2.0 {
                    continue;
                }
                let out = all(from, to, &sine(from, hz, from), 4096);
                let middle = &out[to / 4..to * 3 / 4];
                let worst = middle.iter().fold(0f32, |m, v| m.max(v.abs())) / 0.5;
                assert!(
                    worst < 1e-5,
                    "{from} to {to}, {hz} Hz: {worst}, 100 dB wanted"
                );
            }
        }
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
    fn what_is_no_audio_changes_nothing() {
        let pcm = sine(44_100, 300.0, 5000);
        let mut r = Resampler::new(44_100, 24_000).unwrap();
        let mut out = r.process(&pcm[..3000]).unwrap();
        for value in [3e38, f32::NAN, f32::INFINITY] {
            assert!(r.process(&[0.1, value]).is_err());
        }
        out.extend(r.process(&pcm[3000..]).unwrap());
        out.extend(r.finish().unwrap());
        assert_eq!(out, all(44_100, 24_000, &pcm, 5000));
    }

    #[test]
    fn absurd_rates_are_refused() {
        assert!(Resampler::new(0, 24_000).is_err());
        assert!(Resampler::new(24_000, 1_000_000).is_err());
    }
}

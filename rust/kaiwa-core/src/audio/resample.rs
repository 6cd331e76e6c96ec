//! Sample-rate conversion of one channel in bounded memory, over the `rubato` crate.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, Fft, FixedAsync, FixedSync, Resampler as _, SincInterpolationParameters,
    SincInterpolationType, WindowFunction,
};

use crate::error::{Error, Result};

/// Frames of an FFT block, counted at the lower of the two rates: long enough for a steep filter
/// (flat to 95 % of that rate's half), short enough to run as the audio comes.
const BLOCK: usize = 1024;

/// Taps of the short filter, counted at the lower of the two rates; half of them are its delay.
const TAPS: usize = 80;
/// Blocks a second of the short filter.
const SHORT_BLOCKS: usize = 400;
/// Filters of different phase that are kept at most; rates with more phases are interpolated.
const PHASES: usize = 640;

/// Rates accepted on either side, in Hz.
const RATES: std::ops::RangeInclusive<usize> = 1_000..=768_000;

/// How much of the signal a filter looks at, and how long its results take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// Blocks of [`BLOCK`] samples: flat to 95 % of the lower rate's half. Up to two blocks late, so
    /// 250 ms at 8 kHz; for files.
    Long,
    /// A short filter: flat to 85 % of the lower rate's half, and 9 ms late at 8 kHz; for calls.
    Short,
}

/// What does the work.
enum Filter {
    /// The rates are equal.
    None,
    Long(Fft<f32>),
    Short(Box<Async<f32>>),
}

impl Filter {
    fn new(from: usize, to: usize, delay: Delay) -> std::result::Result<Self, String> {
        if from == to {
            return Ok(Self::None);
        }
        let window = WindowFunction::BlackmanHarris2;
        match delay {
            Delay::Long => {
                let block = block_size(from, to);
                Fft::new_custom(from, to, block, 1, 1, window, FixedSync::Both)
                    .map(Self::Long)
                    .map_err(|e| e.to_string())
            }
            Delay::Short => {
                let ratio = to as f64 / from as f64;
                let block = (from / SHORT_BLOCKS).max(1);
                Async::new_sinc(ratio, 1.0, &short(from, to), block, 1, FixedAsync::Input)
                    .map(|filter| Self::Short(Box::new(filter)))
                    .map_err(|e| e.to_string())
            }
        }
    }

    /// Output samples by which results are late.
    fn delay(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Long(filter) => filter.output_delay(),
            Self::Short(filter) => filter.output_delay(),
        }
    }

    /// Input samples of the next block.
    fn block(&self) -> usize {
        match self {
            Self::None => 1,
            Self::Long(filter) => filter.input_frames_next(),
            Self::Short(filter) => filter.input_frames_next(),
        }
    }

    /// Converts one block.
    fn process(&mut self, block: &[f32]) -> std::result::Result<Vec<f32>, String> {
        let input = InterleavedSlice::new(block, 1, block.len()).map_err(|e| e.to_string())?;
        let done = match self {
            Self::None => return Ok(block.to_vec()),
            Self::Long(filter) => filter.process(&input, None),
            Self::Short(filter) => filter.process(&input, None),
        };
        Ok(done.map_err(|e| e.to_string())?.take_data())
    }
}

/// Parameters of the short filter. One filter for each phase that occurs between the rates, so that
/// nothing is interpolated for the rates of telephones and browsers.
fn short(from: usize, to: usize) -> SincInterpolationParameters {
    let phases = to / gcd(from, to);
    let (oversampling_factor, interpolation) = match phases {
        1..=PHASES => (phases, SincInterpolationType::Nearest),
        _ => (PHASES, SincInterpolationType::Cubic),
    };
    SincInterpolationParameters {
        sinc_len: (TAPS * from).div_ceil(from.min(to)),
        f_cutoff: None,
        oversampling_factor,
        interpolation,
        window: WindowFunction::Blackman,
    }
}

/// Converts a stream of samples from one rate to another.
///
/// The filter's delay is taken out, and after [`Self::finish`] exactly `ceil(n * to / from)`
/// samples have come out for `n` that went in. The result does not depend on how the input was
/// cut into calls.
pub struct Resampler {
    from: usize,
    to: usize,
    delay: Delay,
    filter: Filter,
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
    pub fn new(from: usize, to: usize, delay: Delay) -> Result<Self> {
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
        let filter = Filter::new(from, to, delay)
            .map_err(|e| wrong("to_rate", format!("{to} from {from} ({e})")))?;
        let skip = filter.delay();
        Ok(Self {
            from,
            to,
            delay,
            filter,
            pending: vec![],
            skip,
            taken: 0,
            given: 0,
        })
    }

    /// Takes samples and gives those that are ready.
    ///
    /// # Errors
    /// [`Error::Sample`] for values that are no audio: nothing has changed then.
    /// [`Error::Resample`] if the library refuses a block (not known to happen).
    pub fn process(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        super::samples::check("pcm", 0, pcm)?;
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
        *self = Self::new(self.from, self.to, self.delay)?;
        Ok(rest)
    }

    fn convert(&mut self, pcm: &[f32]) -> Result<Vec<f32>> {
        if matches!(self.filter, Filter::None) {
            return Ok(pcm.to_vec());
        }
        self.pending.extend_from_slice(pcm);
        let (mut out, mut done) = (vec![], 0);
        loop {
            let block = self.filter.block();
            if self.pending.len() - done < block {
                break;
            }
            let samples = self
                .filter
                .process(&self.pending[done..done + block])
                .map_err(|reason| Error::Resample {
                    from: self.from,
                    to: self.to,
                    reason,
                })?;
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
        converted(from, to, Delay::Long, pcm, chunk)
    }

    fn converted(from: usize, to: usize, delay: Delay, pcm: &[f32], chunk: usize) -> Vec<f32> {
        let mut r = Resampler::new(from, to, delay).unwrap();
        let mut out = vec![];
        for piece in pcm.chunks(chunk) {
            out.extend(r.process(piece).unwrap());
        }
        out.extend(r.finish().unwrap());
        out
    }

    /// Largest difference from the same sine at the new rate, over its amplitude, away from the
    /// ends, which ring against the silence outside.
    fn error(from: usize, to: usize, delay: Delay, hz: f64) -> f32 {
        let out = converted(from, to, delay, &sine(from, hz, 2 * from), 1000);
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
                let error = error(from, to, Delay::Long, half * part);
                assert!(error < 1e-5, "{from} to {to}, {part} of the band: {error}");
            }
            let error = error(from, to, Delay::Long, half * 0.95);
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
    fn a_short_filter_keeps_what_speech_needs_and_removes_the_rest() {
        for (from, to) in RATES_TO_TRY {
            let half = from.min(to) as f64 / 2.0;
            for part in [0.05, 0.3, 0.6, 0.8, 0.85] {
                let error = error(from, to, Delay::Short, half * part);
                assert!(error < 2e-3, "{from} to {to}, {part} of the band: {error}");
            }
            let above = to as f64 / 2.0 * 1.05;
            if above < from as f64 / 2.0 {
                let out = converted(from, to, Delay::Short, &sine(from, above, from), 160);
                let middle = &out[to / 4..to * 3 / 4];
                let worst = middle.iter().fold(0f32, |m, v| m.max(v.abs())) / 0.5;
                assert!(worst < 2e-3, "{from} to {to}: {worst}, 54 dB wanted");
            }
        }
    }

    #[test]
    fn a_short_filter_is_exact_in_length_and_the_same_however_it_is_cut() {
        for (from, to) in RATES_TO_TRY {
            for n in [0, 1, 7, 999, 5000] {
                let pcm = sine(from, 300.0, n);
                let once = converted(from, to, Delay::Short, &pcm, 5000);
                assert_eq!(once.len(), (n * to).div_ceil(from), "{from} {to} {n}");
                assert_eq!(once, converted(from, to, Delay::Short, &pcm, 13));
            }
        }
    }

    #[test]
    fn a_short_filter_is_never_late_by_more_than_a_few_milliseconds() {
        for (from, to) in [
            (8_000, 24_000),
            (24_000, 8_000),
            (16_000, 24_000),
            (24_000, 48_000),
        ] {
            let mut r = Resampler::new(from, to, Delay::Short).unwrap();
            // Messages of 20 ms, as telephones send them.
            let message = vec![0.1; from / 50];
            let (mut taken, mut given) = (0, 0);
            for _ in 0..100 {
                taken += message.len();
                given += r.process(&message).unwrap().len();
                let late = taken as f64 / from as f64 - given as f64 / to as f64;
                assert!(late < 0.010, "{from} to {to}: {} ms", 1e3 * late);
            }
        }
    }

    #[test]
    fn starts_anew_after_the_end() {
        let mut r = Resampler::new(16_000, 24_000, Delay::Long).unwrap();
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
        let mut r = Resampler::new(44_100, 24_000, Delay::Long).unwrap();
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
        assert!(Resampler::new(0, 24_000, Delay::Long).is_err());
        assert!(Resampler::new(24_000, 1_000_000, Delay::Short).is_err());
    }
}

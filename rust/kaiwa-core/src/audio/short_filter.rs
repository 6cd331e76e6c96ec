//! Sample-rate conversion with little delay, for audio that is heard as it comes.

use std::f64::consts::PI;

/// Taps on each side, counted at the lower of the two rates; so many samples are the delay.
const SIDE: usize = 40;
/// Where the filter has lost half, of the lower rate's half.
const CUTOFF: f64 = 0.93;
/// Filters of different phase that are kept at most.
const MOST_PHASES: usize = 1000;
/// Products that are summed side by side. Always the same ones, so that a result depends on its
/// window alone and not on how the input was cut.
const LANES: usize = 16;

/// A polyphase filter: one set of taps for every position that an output sample can have between
/// two of the input. Its state is the input that the next output samples still need.
///
/// Nothing waits: samples give at once as many as they are worth at the other rate. So the output
/// begins with silence, as long as the filter's delay.
pub struct ShortFilter {
    /// Output samples for `down` input samples.
    up: usize,
    down: usize,
    /// Taps by phase, the oldest sample first.
    taps: Vec<Vec<f32>>,
    /// Of the filter, in output samples.
    delay: usize,
    taken: usize,
    given: usize,
    /// The last samples: one fewer than a window has.
    rest: Vec<f32>,
    /// Position of the next output sample from the first sample after `rest`, in phases.
    at: usize,
}

impl ShortFilter {
    /// A filter between two rates in Hz; `None` if they have too many phases, or none at all.
    pub fn new(from: usize, to: usize) -> Option<Self> {
        let common = gcd(from, to);
        let (up, down) = (to.checked_div(common)?, from.checked_div(common)?);
        if up == 0 || down == 0 || up > MOST_PHASES {
            return None;
        }
        let (taps, delay) = taps(up, down);
        let mut filter = Self {
            up,
            down,
            taps,
            delay,
            taken: 0,
            given: 0,
            rest: vec![],
            at: 0,
        };
        filter.begin();
        Some(filter)
    }

    fn begin(&mut self) {
        (self.taken, self.given, self.at) = (0, 0, 0);
        self.rest = vec![0.0; self.taps[0].len() - 1];
    }

    /// Takes finite samples and gives those that are ready.
    pub fn process(&mut self, pcm: &[f32]) -> Vec<f32> {
        let out = self.convert(pcm);
        self.taken += pcm.len();
        self.given += out.len();
        out
    }

    /// Gives what the delay holds back, and returns to the beginning.
    pub fn finish(&mut self) -> Vec<f32> {
        let whole = (self.taken * self.up).div_ceil(self.down) + self.delay;
        let wanted = whole - self.given;
        let silence = vec![0.0; (wanted * self.down).div_ceil(self.up) + 1];
        let mut out = self.convert(&silence);
        out.truncate(wanted);
        self.begin();
        out
    }

    fn convert(&mut self, pcm: &[f32]) -> Vec<f32> {
        let mut samples = std::mem::take(&mut self.rest);
        samples.extend_from_slice(pcm);
        let end = pcm.len() * self.up;
        let mut out = Vec::with_capacity(end / self.down + 1);
        while self.at < end {
            let taps = &self.taps[self.at % self.up];
            out.push(product(&samples[self.at / self.up..], taps));
            self.at += self.down;
        }
        self.at -= end;
        samples.drain(..pcm.len());
        self.rest = samples;
        out
    }
}

/// The sum of the products with the first samples of `window`; `taps` are whole groups of lanes.
fn product(window: &[f32], taps: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let groups = window.chunks_exact(LANES).zip(taps.chunks_exact(LANES));
    for (samples, taps) in groups {
        for ((sum, sample), tap) in sums.iter_mut().zip(samples).zip(taps) {
            *sum += sample * tap;
        }
    }
    sums.iter().sum()
}

/// Taps by phase, the oldest sample first, and the delay in output samples.
fn taps(up: usize, down: usize) -> (Vec<Vec<f32>>, usize) {
    let lower = up.max(down);
    // A whole number of output samples.
    let middle = (SIDE * lower).div_ceil(down) * down;
    let count = (2 * middle + 1).div_ceil(up);
    let tap = |index: usize| {
        let position = index as f64 - middle as f64;
        let share = (0.5 + position / (2 * middle) as f64).clamp(0.0, 1.0);
        let turn = 2.0 * PI * share;
        // Blackman's window.
        let shape = 0.42 - 0.5 * turn.cos() + 0.08 * (2.0 * turn).cos();
        let cutoff = CUTOFF / lower as f64;
        sinc(cutoff * position) * cutoff * shape * up as f64
    };
    // Taps of silence before the oldest make the groups whole.
    let padded = count.next_multiple_of(LANES);
    let of_phase = |phase: usize| {
        let mut taps = vec![0.0; padded - count];
        taps.extend((0..count).rev().map(|n| tap(n * up + phase) as f32));
        taps
    };
    ((0..up).map(of_phase).collect(), middle / down)
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (PI * x).sin() / (PI * x)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The convolution as it is defined: zeros between the samples, one long filter, every
    /// `down`-th result.
    fn plain(from: usize, to: usize, pcm: &[f32]) -> Vec<f64> {
        let common = gcd(from, to);
        let (up, down) = (to / common, from / common);
        let (by_phase, _) = taps(up, down);
        let count = by_phase[0].len();
        let value = |at: usize| {
            let (whole, phase) = (at / up, at % up);
            (0..count)
                .filter(|back| *back <= whole)
                .map(|back| {
                    f64::from(pcm[whole - back]) * f64::from(by_phase[phase][count - 1 - back])
                })
                .sum()
        };
        (0..pcm.len() * up).step_by(down).map(value).collect()
    }

    #[test]
    fn the_same_as_the_definition() {
        for (from, to) in [
            (8000, 24_000),
            (24_000, 8000),
            (16_000, 24_000),
            (24_000, 44_100),
        ] {
            let pcm = noise(700);
            let out = ShortFilter::new(from, to).unwrap().process(&pcm);
            let wanted = plain(from, to, &pcm);
            assert_eq!(out.len(), wanted.len());
            for (got, want) in out.iter().zip(wanted) {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{from} {to}: {got} {want}"
                );
            }
        }
    }

    #[test]
    fn a_cut_changes_nothing_and_the_length_is_exact() {
        for (from, to) in [
            (8000, 24_000),
            (24_000, 8000),
            (16_000, 24_000),
            (44_100, 24_000),
        ] {
            for count in [0, 1, 7, 999] {
                let pcm = noise(count);
                let all = |piece: usize| {
                    let mut filter = ShortFilter::new(from, to).unwrap();
                    let mut out = vec![];
                    pcm.chunks(piece)
                        .for_each(|part| out.extend(filter.process(part)));
                    assert_eq!(out.len(), (count * to).div_ceil(from));
                    out.extend(filter.finish());
                    (out, filter.delay)
                };
                let (once, delay) = all(1000);
                assert_eq!(once.len(), (count * to).div_ceil(from) + delay);
                assert_eq!(once, all(13).0);
            }
        }
    }

    #[test]
    fn a_constant_stays_what_it_is() {
        for (from, to) in [(8000, 24_000), (24_000, 8000), (24_000, 16_000)] {
            let out = ShortFilter::new(from, to)
                .unwrap()
                .process(&vec![0.5; from / 10]);
            let last = out.last().unwrap();
            assert!((last - 0.5).abs() < 1e-3, "{from} {to}: {last}");
        }
    }

    #[test]
    fn after_the_end_it_begins_anew() {
        let mut filter = ShortFilter::new(8000, 24_000).unwrap();
        let pcm = noise(300);
        let first = [filter.process(&pcm), filter.finish()];
        assert_eq!(first, [filter.process(&pcm), filter.finish()]);
    }

    #[test]
    fn rates_with_too_many_phases_have_none() {
        assert!(ShortFilter::new(24_000, 44_101).is_none());
        assert!(ShortFilter::new(0, 8000).is_none());
    }
}

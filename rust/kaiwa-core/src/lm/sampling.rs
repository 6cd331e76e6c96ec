//! From logits to a token (docs/spec/moshi.md 5).

use std::cell::RefCell;

use crate::cpu::{Isa, argmax_rows};

thread_local! {
    static SAMPLER: RefCell<Sampler> = RefCell::default();
}

/// [`Sampler::token`] with this thread's own sampler.
pub(crate) fn token(isa: Isa, logits: &[f32], temp: f32, top_k: usize, uniform: f64) -> i32 {
    SAMPLER.with_borrow_mut(|sampler| sampler.token(isa, logits, temp, top_k, uniform))
}

/// Reused between draws.
#[derive(Default)]
struct Sampler {
    candidates: Vec<(f32, u32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A token for one row of logits. `temp` of 0 (or less) takes the largest, the lowest index
    /// on a tie. Otherwise one of the `top_k` most probable is drawn with `uniform` in `[0, 1)`,
    /// in proportion to `softmax(logits / temp)`; ties at the border go to the lower index. A
    /// `top_k` of 0 means all.
    fn token(&mut self, isa: Isa, logits: &[f32], temp: f32, top_k: usize, uniform: f64) -> i32 {
        let mut best = 0;
        argmax_rows(isa, logits, logits.len(), |_, i| best = i);
        if temp <= 0.0 || top_k == 1 || logits.len() < 2 {
            return best as i32;
        }
        let found = &mut self.candidates;
        found.clear();
        found.extend(logits.iter().zip(0u32..).map(|(v, i)| (*v, i)));
        // Larger first, then lower index: a total order, so the set does not depend on the
        // selection's inner workings.
        let before = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if top_k > 0 && top_k < found.len() {
            found.select_nth_unstable_by(top_k - 1, before);
            found.truncate(top_k);
        }
        found.sort_unstable_by(before);
        let (top, scale) = (f64::from(logits[best]), 1.0 / f64::from(temp));
        let weight = |(v, _): &(f32, u32)| exponential((f64::from(*v) - top) * scale);
        let weights = &mut self.weights;
        weights.clear();
        weights.extend(found.iter().map(weight));
        let mut left = uniform * weights.iter().fold(0.0, |sum, w| sum + w);
        for ((_, i), weight) in found.iter().zip(weights) {
            left -= *weight;
            if left < 0.0 {
                return *i as i32;
            }
        }
        best as i32
    }
}

/// `e^x` for `x` of at most 0; 0 below -708, and for NaN.
///
/// Written out so that a device has the same bits: its twin is in `cuda/sample.cu`. Every operation
/// is rounded once, in both languages.
fn exponential(x: f64) -> f64 {
    if x.is_nan() || x < -708.0 {
        return 0.0;
    }
    // Adding and taking away 1.5 times 2^52 rounds to an integer.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let n = (x * std::f64::consts::LOG2_E + MAGIC) - MAGIC;
    // ln 2 in two parts, of which the first times `n` is exact.
    let r = (x - n * 0.693_147_180_369_123_8) - n * 1.908_214_929_270_587_7e-10;
    // The series of e^r, |r| <= ln(2) / 2: what is left out is below 1e-17.
    let factorials = [
        6_227_020_800.0,
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ];
    let series = factorials.into_iter().map(|f: f64| 1.0 / f);
    let p = series.reduce(|p, next| p * r + next).unwrap_or(0.0);
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::random::uniform;

    fn shares(logits: &[f32], temp: f32, top_k: usize) -> Vec<f64> {
        let mut sampler = Sampler::default();
        let mut counts = vec![0f64; logits.len()];
        let n = 100_000;
        for i in 0..n {
            let u = uniform(5, i, 0);
            let t = sampler.token(Isa::detect(), logits, temp, top_k, u);
            counts[t as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax_of_the_kept() {
        let logits: Vec<f32> = (0..20).map(|i| ((i * 7 % 20) as f32) * 0.2).collect();
        for (temp, top_k) in [(1.0, 0), (0.7, 5), (2.0, 19), (0.8, 250)] {
            let got = shares(&logits, temp, top_k);
            let mut order: Vec<usize> = (0..20).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            order.truncate(if top_k == 0 { 20 } else { top_k });
            let weight = |i: &usize| f64::from(logits[*i] / temp).exp();
            let total: f64 = order.iter().map(weight).sum();
            for (i, got) in got.iter().enumerate() {
                let want = if order.contains(&i) {
                    weight(&i) / total
                } else {
                    0.0
                };
                assert!((got - want).abs() < 0.006, "{temp} {top_k} {i}");
            }
        }
    }

    #[test]
    fn the_exponential_is_that_of_the_library_to_its_last_digits() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.003_539;
            let (made, wanted) = (exponential(x), x.exp());
            assert!(
                (made - wanted).abs() <= 4e-16 * wanted,
                "{x}: {made} {wanted}"
            );
        }
        assert_eq!(exponential(0.0), 1.0);
        for nothing in [-708.5, -1e300, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(exponential(nothing), 0.0);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::default();
        let logits = [0.0, 3.0, 1.0, 3.0];
        for (temp, top_k) in [(0.0, 250), (-1.0, 0), (0.8, 1)] {
            assert_eq!(sampler.token(Isa::detect(), &logits, temp, top_k, 0.9), 1);
        }
        // Of equals at the border, the lower index stays.
        let equal = [1.0f32; 9];
        let drawn: Vec<i32> = (0..50)
            .map(|i| sampler.token(Isa::detect(), &equal, 1.0, 3, i as f64 / 50.0))
            .collect();
        assert!(drawn.iter().all(|t| *t < 3) && drawn.contains(&0) && drawn.contains(&2));
    }

    #[test]
    fn numbers_that_are_none_do_not_break_it() {
        let mut sampler = Sampler::default();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let token = sampler.token(Isa::detect(), &[bad; 7], 0.8, 3, 0.5);
            assert!((0..7).contains(&token));
        }
    }
}

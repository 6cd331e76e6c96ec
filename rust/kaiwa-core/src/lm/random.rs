//! Random numbers by counter: the same place in the same conversation always draws the same
//! number, whatever else is in the batch.

/// A uniform number in `[0, 1)` with 53 random bits, for draw `draw` of step `step` of a
/// conversation seeded with `seed`.
///
/// The three words go through the finaliser of SplitMix64 one after the other (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014), which flips each output bit
/// with probability one half for each input bit.
pub(crate) fn uniform(seed: u64, step: u64, draw: u64) -> f64 {
    let word = mix(mix(mix(seed ^ 0x006b_6169_7761).wrapping_add(step)).wrapping_add(draw));
    (word >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_unrelated() {
        let mut bins = [0u32; 64];
        let (mut sum, mut product) = (0.0, 0.0);
        let n = 200_000;
        for i in 0..n {
            let (seed, step, draw) = (i % 7, i / 63, i % 9);
            let u = uniform(seed, step, draw);
            bins[(u * 64.0) as usize] += 1;
            sum += u;
            product += (u - 0.5) * (uniform(seed, step + 1, draw) - 0.5);
        }
        let n = n as f64;
        assert!((sum / n - 0.5).abs() < 0.003, "{}", sum / n);
        assert!((product / n).abs() < 0.001, "{}", product / n);
        let expected = n / 64.0;
        let chi: f64 = bins
            .iter()
            .map(|&c| (f64::from(c) - expected).powi(2) / expected)
            .sum();
        // 63 degrees of freedom: beyond 120 one time in 50 000.
        assert!(chi < 120.0, "{chi}");
        assert_ne!(uniform(1, 2, 3), uniform(1, 3, 2));
        assert_ne!(uniform(0, 0, 0), uniform(1, 0, 0));
    }
}

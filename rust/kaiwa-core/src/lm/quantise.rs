//! Rounding rows of floats to blocks of integers while a model loads.

use half::f16;

use crate::cpu::{Isa, Q4_STEPS, q4_0_blocks};

/// Appends Q8_0 blocks of 32 values: scale `absmax / 127`, values rounded with the scale before
/// it is itself rounded to f16 (docs/spec/checkpoints.md 4).
pub(crate) fn q8_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<32>().0 {
        let largest = block.iter().fold(0f32, |a, v| a.max(v.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out.extend(f16::from_f32(d).to_le_bytes());
        out.extend(block.map(|v| (v * inverse).round() as i8 as u8));
    }
}

/// Appends Q4_0 blocks of 32 values whose scale makes the squared error small: candidates around
/// that of GGML (the value of largest magnitude becomes -8), each refitted by least squares.
/// Sixteen blocks side by side; what is left one by one, with the same result.
pub(crate) fn q4_0_fitted(values: &[f32], out: &mut Vec<u8>) {
    let isa = Isa::detect();
    let (many, rest) = values.as_chunks::<{ 16 * 32 }>();
    for values in many {
        let mut blocks = [0; 16 * 18];
        q4_0_blocks(isa, values, &mut blocks);
        out.extend(blocks);
    }
    q4_0_one_by_one(rest, out);
}

/// The rule of [`q4_0_fitted`], a block at a time.
fn q4_0_one_by_one(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<32>().0 {
        let peak = block
            .iter()
            .fold(0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
        let (mut best, mut least) = (0f32, f32::INFINITY);
        for steps in Q4_STEPS {
            let d = peak / steps;
            if d == 0.0 {
                break;
            }
            let inverse = 1.0 / d;
            let (mut xq, mut qq) = (0f32, 0f32);
            for v in block {
                let q = nearest(v * inverse);
                xq += v * q;
                qq += q * q;
            }
            let d = f16::from_f32(xq / qq.max(1.0)).to_f32();
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            let error: f32 = block
                .iter()
                .map(|v| (v - d * nearest(v * inverse)).powi(2))
                .sum();
            if error < least {
                (best, least) = (d, error);
            }
        }
        out.extend(f16::from_f32(best).to_le_bytes());
        let inverse = if best == 0.0 { 0.0 } else { 1.0 / best };
        let q = block.map(|v| (nearest(v * inverse) + 8.0) as u8);
        out.extend((0..16).map(|i| q[i] | q[i + 16] << 4));
    }
}

/// Nearest integer in -8..=7.
fn nearest(v: f32) -> f32 {
    // Adding and removing 1.5 * 2^23 rounds without a library call.
    const MAGIC: f32 = 12_582_912.0;
    ((v.clamp(-8.0, 7.0) + MAGIC) - MAGIC).clamp(-8.0, 7.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::encoding::decode_row;
    use crate::checkpoint::{Encoding, RawRows};

    fn values() -> Vec<f32> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        // Sums of uniforms are nearly normal.
        let mut values: Vec<f32> = (0..64 * 32).map(|_| (0..6).map(|_| next()).sum()).collect();
        values[..32].fill(0.0);
        values[32] = 1e-30;
        values
    }

    fn decoded(encoding: Encoding, data: Vec<u8>, n: usize) -> Vec<f32> {
        let raw = RawRows {
            data,
            ..RawRows::default()
        };
        let mut out = vec![0f32; n];
        decode_row(encoding, n, &raw, 1, 0, &mut out);
        out
    }

    fn rms_error(a: &[f32], b: &[f32]) -> f64 {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / a.len() as f64).sqrt()
    }

    #[test]
    fn eight_bits_lie_within_half_a_step() {
        let values = values();
        let mut blocks = vec![];
        q8_0(&values, &mut blocks);
        let got = decoded(Encoding::Q8_0, blocks, values.len());
        for (v, g) in values.chunks(32).zip(got.chunks(32)) {
            let step = v.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
            assert!(v.iter().zip(g).all(|(v, g)| (v - g).abs() <= step * 0.57));
        }
    }

    #[test]
    fn blocks_side_by_side_come_out_as_one_by_one() {
        let mut state = 5u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let mut all: Vec<f32> = (0..512 * 60)
            .map(|i| (next() + next()) * 10f32.powi((i / 32 % 90) - 50))
            .collect();
        all.extend(values());
        // Ties, zeros of both signs, and the smallest and largest there are.
        all[..32].fill(-0.0);
        all[32..64].fill(0.5);
        for (i, v) in all[64..512].iter_mut().enumerate() {
            *v = (i % 17) as f32 - 8.0;
        }
        all[512] = f32::from_bits(3);
        all[544] = f32::MAX;
        all[577] = f32::MIN_POSITIVE;
        let mut want = vec![];
        q4_0_one_by_one(&all, &mut want);
        for isa in Isa::available() {
            let blocks = all.as_chunks::<512>().0.iter().flat_map(|values| {
                let mut blocks = [0; 16 * 18];
                q4_0_blocks(isa, values, &mut blocks);
                blocks
            });
            let got: Vec<u8> = blocks.collect();
            assert!(want.starts_with(&got) && got.len() > 60 * 288, "{isa:?}");
        }
        let mut got = vec![];
        q4_0_fitted(&all[..all.len() - 64], &mut got);
        assert!(got.len() == want.len() - 36 && want.starts_with(&got));
    }

    #[test]
    fn fitted_four_bits_beat_the_rule_of_ggml() {
        let values = values();
        let mut blocks = vec![];
        q4_0_fitted(&values, &mut blocks);
        let got = decoded(Encoding::Q4_0, blocks, values.len());
        let ggml: Vec<f32> = values
            .as_chunks::<32>()
            .0
            .iter()
            .flat_map(|block| {
                let peak = block
                    .iter()
                    .fold(0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
                let d = peak / -8.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                block.map(|v| d * ((v * inverse + 8.5).floor().min(15.0) - 8.0))
            })
            .collect();
        let (fitted, simple) = (rms_error(&values, &got), rms_error(&values, &ggml));
        assert!(fitted < 0.98 * simple && fitted > 0.0, "{fitted} {simple}");
        assert!(got[..32].iter().all(|v| *v == 0.0));
    }
}

//! Rounding to four bits while a model loads, sixteen blocks at a time: a lane is a block, so each
//! block's sums run over its values in order, as the plain rule's do.

use super::isa::{Isa, kernel};
use super::simd::{MAGIC, Simd};

/// Values of a block.
const BLOCK: usize = 32;

/// Blocks that are rounded together.
const LANES: usize = 16;

/// Bytes of a block: an f16 scale and 32 half bytes.
const BYTES: usize = 18;

/// Where the value of largest magnitude may end up: a scale is tried for each.
pub(crate) const Q4_STEPS: [f32; 4] = [-8.0, -7.4, -6.8, 7.0];

/// Rounds sixteen blocks to Q4_0; bit for bit what `quantise::q4_0_fitted` makes of finite values.
pub(crate) fn q4_0_blocks(isa: Isa, values: &[f32; LANES * BLOCK], out: &mut [u8; LANES * BYTES]) {
    // SAFETY: `isa` comes from `Isa`; the arrays have the sizes that the body writes and reads.
    unsafe { blocks(isa, values, out) }
}

kernel! {
    /// Sixteen blocks.
    fn blocks = blocks_body(values: &[f32; LANES * BLOCK], out: &mut [u8; LANES * BYTES])
}

/// Nearest integer in -8..=7.
#[inline(always)]
unsafe fn nearest<S: Simd>(v: S::F) -> S::F {
    // SAFETY: register arithmetic. What is no number stays none: the second operand wins.
    unsafe {
        let v = S::min(S::splat(7.0), S::max(S::splat(-8.0), v));
        S::sub(S::add(v, S::splat(MAGIC)), S::splat(MAGIC))
    }
}

/// One over `d`, or zero where `d` is zero.
#[inline(always)]
unsafe fn inverse<S: Simd>(d: S::F) -> S::F {
    // SAFETY: register arithmetic. Nothing but zero is smaller than the smallest number.
    unsafe {
        let least = S::splat(f32::from_bits(1));
        S::select_lt(S::abs(d), least, S::splat(0.0), S::div(S::splat(1.0), d))
    }
}

#[inline(always)]
unsafe fn blocks_body<S: Simd>(values: &[f32; LANES * BLOCK], out: &mut [u8; LANES * BYTES]) {
    // Values of all blocks side by side.
    let mut turned = [[0f32; LANES]; BLOCK];
    for (i, to) in turned.iter_mut().enumerate() {
        for (lane, to) in to.iter_mut().enumerate() {
            *to = values[lane * BLOCK + i];
        }
    }
    // SAFETY: every array of sixteen is a vector.
    unsafe {
        let mut peak = S::splat(0.0);
        for v in &turned {
            let v = S::load(v.as_ptr());
            peak = S::select_lt(S::abs(peak), S::abs(v), v, peak);
        }
        // Scales as wanted, then refitted by least squares.
        let (mut first, mut by) = ([peak; 4], [peak; 4]);
        for c in 0..4 {
            first[c] = S::div(peak, S::splat(Q4_STEPS[c]));
            by[c] = S::div(S::splat(1.0), first[c]);
        }
        let (mut xq, mut qq) = ([S::splat(0.0); 4], [S::splat(0.0); 4]);
        for v in &turned {
            let v = S::load(v.as_ptr());
            for c in 0..4 {
                let q = nearest::<S>(S::mul(v, by[c]));
                xq[c] = S::add(xq[c], S::mul(v, q));
                qq[c] = S::add(qq[c], S::mul(q, q));
            }
        }
        let mut scale = [S::splat(0.0); 4];
        for c in 0..4 {
            scale[c] = S::round_f16(S::div(xq[c], S::max(qq[c], S::splat(1.0))));
            by[c] = inverse::<S>(scale[c]);
        }
        let mut error = [S::splat(0.0); 4];
        for v in &turned {
            let v = S::load(v.as_ptr());
            for c in 0..4 {
                let q = nearest::<S>(S::mul(v, by[c]));
                let miss = S::sub(v, S::mul(scale[c], q));
                error[c] = S::add(error[c], S::mul(miss, miss));
            }
        }
        let (mut best, mut least) = (S::splat(0.0), S::splat(f32::INFINITY));
        for c in 0..4 {
            // Blocks of zeros keep a scale of zero.
            let none = S::splat(f32::INFINITY);
            let zero = S::splat(f32::from_bits(1));
            let error = S::select_lt(S::abs(first[c]), zero, none, error[c]);
            best = S::select_lt(error, least, scale[c], best);
            least = S::select_lt(error, least, error, least);
        }
        let by = inverse::<S>(best);
        let mut scales = [0f32; LANES];
        S::store(scales.as_mut_ptr(), best);
        // A byte is a value and the one sixteen places on.
        let mut bytes = [[0f32; LANES]; BLOCK / 2];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let low = S::mul(S::load(turned[i].as_ptr()), by);
            let high = S::mul(S::load(turned[i + BLOCK / 2].as_ptr()), by);
            let low = S::add(nearest::<S>(low), S::splat(8.0));
            let high = S::add(nearest::<S>(high), S::splat(8.0));
            let both = S::add(low, S::mul(high, S::splat(16.0)));
            // The integer is then in the low bits.
            S::store(byte.as_mut_ptr(), S::add(both, S::splat(MAGIC)));
        }
        for (lane, out) in out.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            let d = half::f16::from_f32(scales[lane]).to_le_bytes();
            out[..2].copy_from_slice(&d);
            for (to, byte) in out[2..].iter_mut().zip(&bytes) {
                *to = byte[lane].to_bits() as u8;
            }
        }
    }
}

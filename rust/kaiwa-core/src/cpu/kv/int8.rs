//! Keys and values as 8-bit integers with a scale per position, and the rounding that queries and
//! weights need to be multiplied with them.

use super::element::{Ahead, Element, Query};
use crate::cpu::simd::Simd;

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn put_key<S: Simd, const B: usize>(x: &[f32], inverse: f32, to: *mut i8, at: usize) {
        for (part, x) in x.chunks(16).enumerate() {
            let mut pairs = [0i32; 8];
            // SAFETY: the caller promises room for all of `x`; a pair of dimensions is two bytes
            // side by side.
            unsafe {
                round::<S>(x, inverse, &mut pairs);
                for (i, pair) in pairs[..x.len() / 2].iter().enumerate() {
                    let bytes = [*pair as u8, (*pair >> 16) as u8];
                    let to = to.cast::<[u8; 2]>().add((part * 8 + i) * B + at);
                    to.write_volatile(bytes);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn put_value<S: Simd>(x: &[f32], inverse: f32, to: *mut i8, at: usize, width: usize) {
        for (part, x) in x.chunks(16).enumerate() {
            let mut pairs = [0i32; 8];
            // SAFETY: the caller promises room for all of `x`; two positions lie side by side.
            unsafe {
                round::<S>(x, inverse, &mut pairs);
                let to = to.add((at / 2 * width + part * 16) * 2 + at % 2);
                for d in 0..x.len() {
                    let v = (pairs[d / 2] >> (16 * (d % 2))) as i8;
                    to.add(2 * d).write_volatile(v);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const B: usize, const V: usize>(
        query: Query<'_>,
        keys: *const i8,
        ahead: Ahead,
    ) -> [S::F; V] {
        // SAFETY: the caller promises a block of keys of as many dimensions as the query has.
        unsafe {
            let mut acc = [S::isplat(0); V];
            for (d, q) in query.pairs.iter().enumerate() {
                let row = keys.add(2 * d * B);
                ahead.fetch::<S>(row.cast(), 2 * B);
                for (v, acc) in acc.iter_mut().enumerate() {
                    let key = S::load_i8_pairs(row.add(v * 32));
                    *acc = S::dot(*acc, key, S::pair_splat(*q));
                }
            }
            let mut out = [S::splat(0.0); V];
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = S::to_f32(acc);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, const N: usize>(
        _: &[f32],
        (pairs, step): (&[i32], f32),
        values: *const i8,
        width: usize,
        fade: f32,
        sums: *mut f32,
        ahead: Ahead,
    ) {
        // SAFETY: the caller promises two rows of values for each of `pairs`, and `N` vectors of
        // sums.
        unsafe {
            let mut acc = [S::isplat(0); N];
            for (i, p) in pairs.iter().enumerate() {
                let row = values.add(2 * i * width);
                ahead.fetch::<S>(row.cast(), 32 * N);
                for (v, acc) in acc.iter_mut().enumerate() {
                    let value = S::load_i8_pairs(row.add(v * 32));
                    *acc = S::dot(*acc, value, S::pair_splat(*p));
                }
            }
            for (v, acc) in acc.into_iter().enumerate() {
                let sum = S::mul(S::load(sums.add(v * 16)), S::splat(fade));
                let sum = S::fma(S::to_f32(acc), S::splat(step), sum);
                S::store(sums.add(v * 16), sum);
            }
        }
    }
}

/// Nearest integers of at most sixteen values times `by`, as pairs.
#[inline(always)]
pub(super) unsafe fn round<S: Simd>(x: &[f32], by: f32, pairs: &mut [i32; 8]) {
    let mut lanes = [0f32; 16];
    lanes[..x.len()].copy_from_slice(x);
    // SAFETY: the arrays are a vector and its pairs.
    unsafe {
        S::round_pairs(
            pairs.as_mut_ptr(),
            S::mul(S::load(lanes.as_ptr()), S::splat(by)),
        )
    };
}

/// Largest magnitude over `steps`, and one over it.
#[inline(always)]
pub(super) fn scale_of(x: &[f32], steps: f32) -> (f32, f32) {
    step_of(x.iter().fold(0f32, |a, v| a.max(v.abs())), steps)
}

/// `largest` over `steps`, and one over it; zeros for what is too small to invert.
#[inline(always)]
pub(super) fn step_of(largest: f32, steps: f32) -> (f32, f32) {
    let scale = largest / steps;
    if scale >= f32::MIN_POSITIVE {
        (scale, 1.0 / scale)
    } else {
        (0.0, 0.0)
    }
}

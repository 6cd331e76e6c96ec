//! Element-wise functions, LayerNorm, rotary angles and the codebook search.

use super::isa::{Isa, kernel};
use super::pool::{self, Shared};
use super::simd::Simd;

/// Values of a gate below which other threads are not asked.
const TASK_WORK: usize = 1 << 13;

/// `e^x - 1` for x in about -87..88, accurate near zero too: with x = n ln 2 + r, |r| <= ln 2 / 2,
/// it is `2^n (e^r - 1) + (2^n - 1)`, and `e^r - 1` is its Taylor polynomial.
#[inline(always)]
unsafe fn exp_parts<S: Simd>(x: S::F) -> (S::F, S::F) {
    // SAFETY: register arithmetic only; the caller runs inside `S`'s instruction set.
    unsafe {
        let x = S::max(S::min(x, S::splat(88.0)), S::splat(-87.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, so that n ln 2 is exact to the last bit of r.
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut q = S::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            q = S::fma(q, r, S::splat(c));
        }
        (S::fma(S::mul(q, r), r, r), S::pow2(n))
    }
}

/// `e^x`; below -87 it is about 1e-38, never zero.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as for `exp_parts`.
    unsafe {
        let (m1, scale) = exp_parts::<S>(x);
        S::fma(m1, scale, scale)
    }
}

/// ELU with alpha 1: `x` if positive, else `e^x - 1` (docs/spec/mimi.md 2.3).
#[inline(always)]
pub(super) unsafe fn elu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as for `exp_parts`.
    unsafe {
        let (m1, scale) = exp_parts::<S>(x);
        let negative = S::fma(m1, scale, S::sub(scale, S::splat(1.0)));
        S::select_lt(x, S::splat(0.0), negative, x)
    }
}

/// Exact GELU, `x (1 + erf(x / sqrt 2)) / 2`. erf is a rational function on |x| <= 4, fitted to
/// 6.5e-8 relative; beyond, it is one to f32.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    const P: [f32; 7] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        0.207_125_84,
        0.051_524_963,
        0.003_990_601_3,
        0.000_147_287_5,
        -1.942_324_6e-6,
        1.911_102_2e-8,
    ];
    const Q: [f32; 5] = [
        1.0,
        0.516_891_8,
        0.117_970_996,
        0.014_958_124,
        0.001_021_120_7,
    ];
    // SAFETY: as for `exp_parts`.
    unsafe {
        let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let z = S::max(S::min(z, S::splat(4.0)), S::splat(-4.0));
        let z2 = S::mul(z, z);
        let mut p = S::splat(P[6]);
        for c in [P[5], P[4], P[3], P[2], P[1], P[0]] {
            p = S::fma(p, z2, S::splat(c));
        }
        let mut q = S::splat(Q[4]);
        for c in [Q[3], Q[2], Q[1], Q[0]] {
            q = S::fma(q, z2, S::splat(c));
        }
        let erf = S::div(S::mul(z, p), q);
        let erf = S::max(S::min(erf, S::splat(1.0)), S::splat(-1.0));
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, erf, half)
    }
}

/// LayerNorm with biased variance over each row of `width`: `out = (x - mean) / sqrt(var + eps) *
/// weight + bias`. `x` and `out` are `[rows, width]`.
pub(crate) fn layer_norm(
    isa: Isa,
    x: &[f32],
    out: &mut [f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    let width = weight.len();
    assert!(bias.len() == width && x.len() == out.len() && x.len().is_multiple_of(width));
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        // SAFETY: all four slices are `width` long.
        unsafe { norm_row(isa, x, out, weight, bias, eps) };
    }
}

kernel! {
    /// One row of `layer_norm`.
    fn norm_row = norm_body(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], eps: f32)
}

#[inline(always)]
unsafe fn norm_body<S: Simd>(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = x.len();
    let whole = width / 16 * 16;
    // SAFETY: whole vectors stay below `whole`; the rest is safe indexing.
    unsafe {
        let mut sum = S::splat(0.0);
        for i in (0..whole).step_by(16) {
            sum = S::add(sum, S::load(x.as_ptr().add(i)));
        }
        let total = S::sum(sum) + x[whole..].iter().sum::<f32>();
        let mean = total / width as f32;
        let m = S::splat(mean);
        let mut sq = S::splat(0.0);
        for i in (0..whole).step_by(16) {
            let d = S::sub(S::load(x.as_ptr().add(i)), m);
            sq = S::fma(d, d, sq);
        }
        let tail: f32 = x[whole..].iter().map(|v| (v - mean) * (v - mean)).sum();
        let inv = 1.0 / ((S::sum(sq) + tail) / width as f32 + eps).sqrt();
        let s = S::splat(inv);
        for i in (0..whole).step_by(16) {
            let d = S::mul(S::sub(S::load(x.as_ptr().add(i)), m), s);
            let y = S::fma(
                d,
                S::load(weight.as_ptr().add(i)),
                S::load(bias.as_ptr().add(i)),
            );
            S::store(out.as_mut_ptr().add(i), y);
        }
        for i in whole..width {
            out[i] = (x[i] - mean) * inv * weight[i] + bias[i];
        }
    }
}

/// RMS norm of each row of `width`: `out = x * alpha / sqrt(mean(x^2) + eps)` (docs/spec/moshi.md
/// 3.3). `x` and `out` are `[rows, width]`.
pub(crate) fn rms_norm(isa: Isa, x: &[f32], out: &mut [f32], alpha: &[f32], eps: f32) {
    let width = alpha.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width));
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        // SAFETY: all three slices are `width` long.
        unsafe { rms_row(isa, x, out, alpha, eps) };
    }
}

kernel! {
    /// One row of `rms_norm`.
    fn rms_row = rms_body(x: &[f32], out: &mut [f32], alpha: &[f32], eps: f32)
}

#[inline(always)]
unsafe fn rms_body<S: Simd>(x: &[f32], out: &mut [f32], alpha: &[f32], eps: f32) {
    let width = x.len();
    let whole = width / 16 * 16;
    // SAFETY: whole vectors stay below `whole`; the rest is safe indexing.
    unsafe {
        let mut sq = S::splat(0.0);
        for i in (0..whole).step_by(16) {
            let v = S::load(x.as_ptr().add(i));
            sq = S::fma(v, v, sq);
        }
        let total = S::sum(sq) + x[whole..].iter().map(|v| v * v).sum::<f32>();
        let inv = 1.0 / (total / width as f32 + eps).sqrt();
        let s = S::splat(inv);
        for i in (0..whole).step_by(16) {
            let a = S::mul(S::load(alpha.as_ptr().add(i)), s);
            S::store(
                out.as_mut_ptr().add(i),
                S::mul(S::load(x.as_ptr().add(i)), a),
            );
        }
        for i in whole..width {
            out[i] = x[i] * (alpha[i] * inv);
        }
    }
}

/// The gate of a feed-forward part: `out = silu(u[..h]) * u[h..]` for each row, `u` being
/// `[rows, 2h]` and `out` `[rows, h]` (docs/spec/moshi.md 3.7).
pub(crate) fn silu_gate(isa: Isa, u: &[f32], out: &mut [f32], hidden: usize) {
    assert!(u.len() == 2 * out.len() && out.len().is_multiple_of(hidden));
    let rows = out.len() / hidden;
    let out = Shared::new(out);
    pool::for_each_if(rows * hidden > TASK_WORK, rows, |m| {
        let (gate, value) = u[m * 2 * hidden..][..2 * hidden].split_at(hidden);
        // SAFETY: all three slices are `hidden` long; each task writes a row of its own.
        unsafe {
            let out = std::slice::from_raw_parts_mut(out.get().add(m * hidden), hidden);
            gate_row(isa, gate, value, out);
        }
    });
}

kernel! {
    /// One row of `silu_gate`.
    fn gate_row = gate_body(gate: &[f32], value: &[f32], out: &mut [f32])
}

/// `silu(gate) * value`.
#[inline(always)]
unsafe fn gated<S: Simd>(gate: S::F, value: S::F) -> S::F {
    // SAFETY: as for `exp_parts`.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), gate));
        S::mul(S::div(gate, S::add(S::splat(1.0), e)), value)
    }
}

#[inline(always)]
unsafe fn gate_body<S: Simd>(gate: &[f32], value: &[f32], out: &mut [f32]) {
    let whole = gate.len() / 16 * 16;
    // SAFETY: whole vectors stay below `whole`; the tail goes through buffers.
    unsafe {
        for i in (0..whole).step_by(16) {
            let y = gated::<S>(
                S::load(gate.as_ptr().add(i)),
                S::load(value.as_ptr().add(i)),
            );
            S::store(out.as_mut_ptr().add(i), y);
        }
        let rest = gate.len() - whole;
        if rest > 0 {
            let (mut g, mut v) = ([0f32; 16], [0f32; 16]);
            g[..rest].copy_from_slice(&gate[whole..]);
            v[..rest].copy_from_slice(&value[whole..]);
            let y = gated::<S>(S::load(g.as_ptr()), S::load(v.as_ptr()));
            S::store(g.as_mut_ptr(), y);
            out[whole..].copy_from_slice(&g[..rest]);
        }
    }
}

/// Cosines and sines of the rotary embedding at one position: `angle_i = pos * period^(-2i/dim)`
/// for `dim / 2` pairs, computed in f64 so that day-long streams stay exact (docs/spec/mimi.md 8).
/// Written to `out` as cos, sin, cos, sin...
pub(crate) fn rope_table(pos: u64, dim: usize, max_period: f64, out: &mut [f32]) {
    for (i, pair) in out.chunks_exact_mut(2).enumerate().take(dim / 2) {
        let angle = pos as f64 * (-(2.0 * i as f64 / dim as f64) * max_period.ln()).exp();
        pair[0] = angle.cos() as f32;
        pair[1] = angle.sin() as f32;
    }
}

/// Index of the largest value of each row of `width`, the lowest on a tie; 0 for a row of NaN.
pub(crate) fn argmax_rows(
    isa: Isa,
    scores: &[f32],
    width: usize,
    mut found: impl FnMut(usize, usize),
) {
    for (row, scores) in scores.chunks_exact(width).enumerate() {
        let mut best = f32::NEG_INFINITY;
        // SAFETY: `row_max` reads inside the slice.
        unsafe { row_max(isa, scores, &mut best) };
        found(row, scores.iter().position(|&v| v == best).unwrap_or(0));
    }
}

kernel! {
    /// Largest value of a slice.
    fn row_max = row_max_body(x: &[f32], out: &mut f32)
}

#[inline(always)]
unsafe fn row_max_body<S: Simd>(x: &[f32], out: &mut f32) {
    let whole = x.len() / 16 * 16;
    // SAFETY: whole vectors stay below `whole`.
    unsafe {
        let mut best = S::splat(f32::NEG_INFINITY);
        for i in (0..whole).step_by(16) {
            best = S::max(S::load(x.as_ptr().add(i)), best);
        }
        *out = x[whole..].iter().copied().fold(S::hmax(best), f32::max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        /// Applies the three functions to sixteen values.
        fn functions = functions_body(x: &[f32; 16], e: &mut [f32; 16], l: &mut [f32; 16], g: &mut [f32; 16])
    }

    #[inline(always)]
    unsafe fn functions_body<S: Simd>(
        x: &[f32; 16],
        e: &mut [f32; 16],
        l: &mut [f32; 16],
        g: &mut [f32; 16],
    ) {
        // SAFETY: all arrays hold one vector.
        unsafe {
            let v = S::load(x.as_ptr());
            S::store(e.as_mut_ptr(), exp::<S>(v));
            S::store(l.as_mut_ptr(), elu::<S>(v));
            S::store(g.as_mut_ptr(), gelu::<S>(v));
        }
    }

    /// erf by its Taylor series in f64, for |x| <= 6.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn functions_equal_double_precision() {
        for isa in Isa::available() {
            for step in 0..2000 {
                let x: [f32; 16] =
                    std::array::from_fn(|i| (step * 16 + i) as f32 * (10.0 / 32000.0) - 5.0);
                let (mut e, mut l, mut g) = ([0.0; 16], [0.0; 16], [0.0; 16]);
                // SAFETY: `isa` is available.
                unsafe { functions(isa, &x, &mut e, &mut l, &mut g) };
                for i in 0..16 {
                    let v = f64::from(x[i]);
                    assert!((f64::from(e[i]) / v.exp() - 1.0).abs() < 2e-7, "exp {v}");
                    let want = if v > 0.0 { v } else { v.exp_m1() };
                    assert!(
                        (f64::from(l[i]) - want).abs() <= 2e-7 * want.abs(),
                        "elu {v}"
                    );
                    let want = 0.5 * v * (1.0 + erf(v / 2f64.sqrt()));
                    assert!(
                        (f64::from(g[i]) - want).abs() < 1e-6,
                        "gelu {v} {} {want}",
                        g[i]
                    );
                }
            }
            let far = [
                -1e30f32, -100.0, -88.0, 0.0, 1e30, 100.0, -0.0, 20.0, 0.0, 0.0, 0.0, 0.0, 0.0,
                0.0, 0.0, 0.0,
            ];
            let (mut e, mut l, mut g) = ([0.0; 16], [0.0; 16], [0.0; 16]);
            // SAFETY: `isa` is available.
            unsafe { functions(isa, &far, &mut e, &mut l, &mut g) };
            assert!(e.iter().chain(&l).chain(&g).all(|v| v.is_finite()));
            assert_eq!((l[0], l[4], g[4]), (-1.0, 1e30, 1e30));
            assert!(
                g[0].abs() < 1e24,
                "gelu far left is rounding only: {}",
                g[0]
            );
        }
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        for isa in Isa::available() {
            let mut rows = vec![0f32; 3 * 37];
            rows[5] = 2.0;
            rows[36] = 2.0;
            rows[37 + 36] = 1.0;
            rows[74..].fill(f32::NAN);
            let mut got = vec![];
            argmax_rows(isa, &rows, 37, |r, i| got.push((r, i)));
            assert_eq!(got, [(0, 5), (1, 36), (2, 0)]);
        }
    }

    #[test]
    fn rms_norm_and_gate_equal_double_precision() {
        for isa in Isa::available() {
            for width in [5, 32, 100] {
                let x: Vec<f32> = (0..width * 4)
                    .map(|i| (i as f32 * 0.7).sin() * 9.0)
                    .collect();
                let alpha: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 * 0.01).collect();
                let mut y = vec![0.0; x.len()];
                rms_norm(isa, &x, &mut y, &alpha, 1e-8);
                for (x, y) in x.chunks(width).zip(y.chunks(width)) {
                    let square: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
                    let inv = 1.0 / (square / width as f64 + 1e-8).sqrt();
                    for i in 0..width {
                        let want = f64::from(x[i]) * inv * f64::from(alpha[i]);
                        assert!((f64::from(y[i]) - want).abs() < 2e-6);
                    }
                }
                let mut y = vec![0.0; width * 2];
                silu_gate(isa, &x, &mut y, width);
                for (u, y) in x.chunks(2 * width).zip(y.chunks(width)) {
                    for i in 0..width {
                        let g = f64::from(u[i]);
                        let want = g / (1.0 + (-g).exp()) * f64::from(u[width + i]);
                        assert!((f64::from(y[i]) - want).abs() < 2e-5, "{want} {}", y[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn norm_equals_double_precision() {
        for isa in Isa::available() {
            for width in [5, 32, 100] {
                let x: Vec<f32> = (0..width * 2)
                    .map(|i| (i as f32 * 0.7).sin() + 3.0)
                    .collect();
                let w: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 * 0.01).collect();
                let b: Vec<f32> = (0..width).map(|i| i as f32 * 0.1).collect();
                let mut y = vec![0.0; x.len()];
                layer_norm(isa, &x, &mut y, &w, &b, 1e-5);
                for r in 0..2 {
                    let row = &x[r * width..][..width];
                    let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                    let var = row
                        .iter()
                        .map(|&v| (f64::from(v) - mean).powi(2))
                        .sum::<f64>()
                        / width as f64;
                    for i in 0..width {
                        let want = (f64::from(row[i]) - mean) / (var + 1e-5).sqrt()
                            * f64::from(w[i])
                            + f64::from(b[i]);
                        assert!((f64::from(y[r * width + i]) - want).abs() < 2e-5);
                    }
                }
            }
        }
    }
}

//! Matrices of 8-bit and 4-bit integers with scales, and their product with f32 rows.
//!
//! A weight is `scale * (q + offset) + bias` with a scale (and bias) per `group` inputs of an
//! output, or one scale an output. Activations are rounded to i16 with one scale per group: that
//! keeps their error below 2e-5 of the group's largest value, so a product equals f32 arithmetic
//! on the dequantised weights to about 1e-5, while the inner loop is the processor's 16-bit
//! integer dot product. Integer sums are exact, so instruction sets and batches agree bit for
//! bit.
//!
//! Layout: panels of 32 outputs, in a panel group after group, everything of a group together:
//! its scales (32 x 16 bit), its biases, then the integers, with two neighbouring inputs of an
//! output side by side, outputs next, inputs slowest. Four-bit values of inputs `4c + j` and
//! `4c + 2 + j` share a byte. One forward sweep reads all of it.

use std::cell::RefCell;

use half::{bf16, f16};

use super::gemm::{Job, finish_row};
use super::isa::{Isa, integer_kernel, kernel};
use super::pack::Packed;
use super::simd::Simd;

/// Outputs of a panel, for every instruction set.
pub(super) const WIDTH: usize = 32;

/// Rows of a register tile.
const MR: usize = 8;

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleKind {
    F16,
    Bf16,
    /// One f32 an output, applied after the sum.
    Row,
}

/// The form of a quantised matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quant {
    /// 8 (signed) or 4 (unsigned).
    pub bits: u8,
    /// Inputs per scale, a multiple of 4 that divides the inputs; at most [`MAX_GROUP`].
    pub group: usize,
    pub scale: ScaleKind,
    /// True if each group has a bias, in the type of its scale.
    pub bias: bool,
    /// Added to every integer.
    pub offset: i32,
}

/// Largest group: 128 inputs of at most 255 times 32767 stay within an i32.
pub(crate) const MAX_GROUP: usize = 128;

impl Quant {
    /// Bytes of the scales and biases of a group in a panel.
    pub(super) fn head(&self) -> usize {
        let one = match self.scale {
            ScaleKind::Row => 0,
            ScaleKind::F16 | ScaleKind::Bf16 => 2 * WIDTH,
        };
        one * (1 + usize::from(self.bias))
    }

    /// Bytes of a group in a panel.
    pub(super) fn group_bytes(&self) -> usize {
        self.head() + self.group * WIDTH * usize::from(self.bits) / 8
    }

    /// Bytes of a panel of `k` inputs.
    pub(super) fn panel_bytes(&self, k: usize) -> usize {
        k / self.group * self.group_bytes()
    }

    /// Byte of a value inside its group's integers, and the shift of its bits.
    #[inline(always)]
    pub(super) fn place(&self, output: usize, input: usize) -> (usize, u32) {
        if self.bits == 8 {
            (input / 2 * 2 * WIDTH + 2 * output + input % 2, 0)
        } else {
            let (quad, j) = (input / 4, input % 4);
            (quad * 2 * WIDTH + 2 * output + j % 2, 4 * (j as u32 / 2))
        }
    }

    /// Widens a stored scale or bias.
    fn widen(&self, bits: u16) -> f32 {
        match self.scale {
            ScaleKind::F16 => f16::from_bits(bits).to_f32(),
            ScaleKind::Bf16 | ScaleKind::Row => bf16::from_bits(bits).to_f32(),
        }
    }

    /// One weight, dequantised: for gathers and tests.
    pub(super) fn get(&self, w: &Packed, o: usize, i: usize) -> f32 {
        let k = w.taps.inputs();
        let panel = &w.data.bytes()[o / WIDTH * self.panel_bytes(k)..];
        let group = &panel[i / self.group * self.group_bytes()..];
        let (output, input) = (o % WIDTH, i % self.group);
        let word = |at: usize| u16::from_le_bytes([group[2 * at], group[2 * at + 1]]);
        let (at, shift) = self.place(output, input);
        let byte = group[self.head() + at];
        let q = if self.bits == 8 {
            i32::from(byte as i8)
        } else {
            i32::from(byte >> shift & 15)
        };
        let scale = match self.scale {
            ScaleKind::Row => w.row_scale[o],
            _ => self.widen(word(output)),
        };
        let bias = if self.bias {
            self.widen(word(WIDTH + output))
        } else {
            0.0
        };
        scale * (q + self.offset) as f32 + bias
    }
}

/// Rows of activations as i16.
#[derive(Default)]
pub(super) struct Activations {
    /// `[rows, k / 2]` pairs.
    pairs: Vec<i32>,
    /// `[rows, groups]`: value of one step of the integers.
    scale: Vec<f32>,
    /// `[rows, groups]`: sum of the integers.
    sum: Vec<i32>,
    groups: usize,
}

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

/// Rounds `rows` rows of `k` floats and gives them to `work`.
pub(super) fn with_activations<R>(
    isa: Isa,
    k: usize,
    group: usize,
    rows: usize,
    row: impl Fn(usize) -> *const f32,
    work: impl FnOnce(&Activations) -> R,
) -> R {
    // Taken out, not borrowed: a thread that waits for others may start another product.
    let mut x = ACTIVATIONS.take();
    x.groups = k / group;
    x.pairs.resize(rows * k / 2, 0);
    x.scale.resize(rows * x.groups, 0.0);
    x.sum.resize(rows * x.groups, 0);
    for m in 0..rows {
        let at = m * x.groups;
        // SAFETY: `matmul` checked that row `m` holds `k` floats, which stay borrowed.
        unsafe {
            let values = std::slice::from_raw_parts(row(m), k);
            round_row(
                isa,
                values,
                group,
                &mut x.pairs[m * k / 2..][..k / 2],
                &mut x.scale[at..at + x.groups],
                &mut x.sum[at..at + x.groups],
            );
        }
    }
    let result = work(&x);
    ACTIVATIONS.set(x);
    result
}

kernel! {
    /// One row of activations to i16 pairs.
    fn round_row = round_body(x: &[f32], group: usize, pairs: &mut [i32], scale: &mut [f32], sum: &mut [i32])
}

#[inline(always)]
#[expect(
    clippy::extra_unused_type_parameters,
    reason = "plain code, compiled once for every instruction set"
)]
unsafe fn round_body<S>(
    x: &[f32],
    group: usize,
    pairs: &mut [i32],
    scale: &mut [f32],
    sum: &mut [i32],
) {
    for (g, values) in x.chunks_exact(group).enumerate() {
        // Lane by lane, so that the compiler can use whole vectors.
        let mut lanes = [0f32; 16];
        let (whole, rest) = values.as_chunks::<16>();
        for v in whole {
            for (lane, v) in lanes.iter_mut().zip(v) {
                *lane = if v.abs() > *lane { v.abs() } else { *lane };
            }
        }
        let mut largest = 0f32;
        for v in lanes.iter().chain(rest) {
            largest = if v.abs() > largest { v.abs() } else { largest };
        }
        let step = largest * (1.0 / 32767.0);
        // A group of zeros (or of values too small to invert) counts as zeros.
        let inverse = if step >= f32::MIN_POSITIVE {
            1.0 / step
        } else {
            0.0
        };
        let out = &mut pairs[g * group / 2..][..group / 2];
        let mut total = 0i32;
        for (pair, v) in out.iter_mut().zip(values.as_chunks::<2>().0) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
            let a = (v[0] * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
            let b = (v[1] * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
            total += a + b;
            *pair = (a & 0xffff) | (b << 16);
        }
        scale[g] = if inverse == 0.0 { 0.0 } else { step };
        sum[g] = total;
    }
}

/// 1.5 * 2^23: its neighbours are one apart.
const MAGIC: f32 = 12_582_912.0;

integer_kernel! {
    /// The rectangle of panels and rows that one task computes.
    fn quant_panels = panels_body(job: &Job<'_>, q: Quant, x: &Activations, panels: (usize, usize), rows: (usize, usize))
}

/// The rectangle of panels and rows that one task computes.
///
/// # Safety
/// As for the dense kernel: `job` was checked by `matmul`, and `x` holds its rows.
pub(super) unsafe fn run(
    isa: Isa,
    job: &Job<'_>,
    q: Quant,
    x: &Activations,
    panels: (usize, usize),
    rows: (usize, usize),
) {
    // SAFETY: the caller's promise.
    unsafe { quant_panels(isa, job, q, x, panels, rows) }
}

#[inline(always)]
unsafe fn panels_body<S: Simd>(
    job: &Job<'_>,
    q: Quant,
    x: &Activations,
    panels: (usize, usize),
    rows: (usize, usize),
) {
    let k = job.w.taps.inputs();
    let bytes = q.panel_bytes(k);
    let count = rows.1 - rows.0;
    // Registers hold two vectors of sums a row.
    let most = if S::NV == 2 { MR } else { 2 };
    let height = count.div_ceil(count.div_ceil(most).max(1));
    for panel in panels.0..panels.1 {
        let mut m = rows.0;
        while m < rows.1 {
            let mr = height.min(rows.1 - m);
            let mut sums = std::mem::MaybeUninit::<[f32; MR * WIDTH]>::uninit();
            let sums = sums.as_mut_ptr().cast::<f32>();
            // SAFETY: the panel is inside the data; `sums` holds `mr` rows of it; `matmul`
            // checked the rest.
            unsafe {
                let data = job.w.data.bytes().as_ptr().add(panel * bytes);
                tile_of::<S>(mr, q, x, m, data, sums);
                if q.scale == ScaleKind::Row {
                    let scale = job.w.row_scale.as_ptr().add(panel * WIDTH);
                    for at in 0..mr * WIDTH / 16 {
                        let p = sums.add(at * 16);
                        let s = S::load(scale.add(at % 2 * 16));
                        S::store(p, S::mul(S::load(p), s));
                    }
                }
                for i in 0..mr {
                    finish_row::<S>(job, m + i, panel * WIDTH, sums.add(i * WIDTH), WIDTH);
                }
            }
            m += mr;
        }
    }
}

#[inline(always)]
unsafe fn tile_of<S: Simd>(
    mr: usize,
    q: Quant,
    x: &Activations,
    m: usize,
    data: *const u8,
    out: *mut f32,
) {
    macro_rules! heights {
        ($bits:literal, $($h:literal)*) => {
            match mr {
                // SAFETY: the caller's promise.
                $($h => unsafe { tile::<S, $bits, $h>(q, x, m, data, out) },)*
                _ => unreachable!("a tile has at most MR rows"),
            }
        };
    }
    if S::NV == 2 {
        match q.bits {
            8 => heights!(8, 1 2 3 4 5 6 7 8),
            _ => heights!(4, 1 2 3 4 5 6 7 8),
        }
    } else {
        match q.bits {
            8 => heights!(8, 1 2),
            _ => heights!(4, 1 2),
        }
    }
}

/// `H` rows times one panel.
#[inline(always)]
unsafe fn tile<S: Simd, const BITS: u8, const H: usize>(
    q: Quant,
    x: &Activations,
    m: usize,
    data: *const u8,
    out: *mut f32,
) {
    let (groups, half) = (x.groups, q.group / 2);
    // SAFETY: `data` holds `groups` groups; `x` holds rows `m..m + H`; `out` holds `H * WIDTH`.
    unsafe {
        let mut total = [[S::splat(0.0); 2]; H];
        let rows: [*const i32; H] =
            std::array::from_fn(|i| x.pairs.as_ptr().add((m + i) * groups * half));
        let (steps, sums) = (x.scale.as_ptr(), x.sum.as_ptr());
        let mut p = data;
        for g in 0..groups {
            let at = |i: usize| (m + i) * groups + g;
            let ints = p.add(q.head());
            let mut acc = [[S::isplat(0); 2]; H];
            if q.offset != 0 {
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = [S::isplat(q.offset * *sums.add(at(i))); 2];
                }
            }
            let x: [*const i32; H] = std::array::from_fn(|i| rows[i].add(g * half));
            if BITS == 8 {
                for j in 0..half {
                    let w0 = S::load_i8_pairs(ints.add(j * 64).cast());
                    let w1 = S::load_i8_pairs(ints.add(j * 64 + 32).cast());
                    for i in 0..H {
                        let pair = S::pair_splat(*x[i].add(j));
                        acc[i][0] = S::dot(acc[i][0], w0, pair);
                        acc[i][1] = S::dot(acc[i][1], w1, pair);
                    }
                }
            } else {
                for j in 0..half / 2 {
                    let (low0, high0) = S::load_nibble_pairs(ints.add(j * 64));
                    let (low1, high1) = S::load_nibble_pairs(ints.add(j * 64 + 32));
                    for i in 0..H {
                        let pair = S::pair_splat(*x[i].add(2 * j));
                        acc[i][0] = S::dot(acc[i][0], low0, pair);
                        acc[i][1] = S::dot(acc[i][1], low1, pair);
                        let pair = S::pair_splat(*x[i].add(2 * j + 1));
                        acc[i][0] = S::dot(acc[i][0], high0, pair);
                        acc[i][1] = S::dot(acc[i][1], high1, pair);
                    }
                }
            }
            let word = p.cast::<u16>();
            let scale = [
                load_scale::<S>(q.scale, word),
                load_scale::<S>(q.scale, word.add(16)),
            ];
            let bias = if q.bias {
                [
                    load_scale::<S>(q.scale, word.add(WIDTH)),
                    load_scale::<S>(q.scale, word.add(WIDTH + 16)),
                ]
            } else {
                scale
            };
            for i in 0..H {
                let step = *steps.add(at(i));
                let by = S::splat(step);
                for v in 0..2 {
                    let sum = S::to_f32(acc[i][v]);
                    total[i][v] = S::fma(sum, S::mul(scale[v], by), total[i][v]);
                }
                if q.bias {
                    let sum = S::splat(step * *sums.add(at(i)) as f32);
                    for v in 0..2 {
                        total[i][v] = S::fma(bias[v], sum, total[i][v]);
                    }
                }
            }
            p = p.add(q.group_bytes());
        }
        for (i, pair) in total.iter().enumerate() {
            S::store(out.add(i * WIDTH), pair[0]);
            S::store(out.add(i * WIDTH + 16), pair[1]);
        }
    }
}

/// Sixteen scales or biases from `p`. Not a closure: those would not have the instruction set.
#[inline(always)]
unsafe fn load_scale<S: Simd>(kind: ScaleKind, p: *const u16) -> S::F {
    // SAFETY: the caller promises sixteen values at `p` unless there are none.
    unsafe {
        match kind {
            ScaleKind::F16 => S::load_f16(p),
            ScaleKind::Bf16 => S::load_bf16(p),
            ScaleKind::Row => S::splat(1.0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::gemm::{Out, Rows, matmul};
    use super::super::pack::{Packed, Packer, WeightBits};
    use super::super::{Arena, Isa};
    use crate::lm::{Encoding, RawRows};

    fn noise(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33
        }
    }

    /// Random rows of an encoding, and their values by its own formula.
    fn random(encoding: Encoding, n: usize, k: usize) -> (RawRows, Vec<f64>) {
        let mut next = noise(7);
        let mut raw = RawRows::default();
        let mut values = vec![0f64; n * k];
        let f16 = |v: f32| half::f16::from_f32(v);
        let bf = |v: f32| half::bf16::from_f32(v);
        for o in 0..n {
            let row = &mut values[o * k..][..k];
            match encoding {
                Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q4_1 => {
                    for block in row.chunks_exact_mut(32) {
                        let d = f16(0.001 + (next() % 100) as f32 * 1e-4);
                        raw.data.extend(d.to_le_bytes());
                        let m = f16(-0.01 - (next() % 100) as f32 * 1e-4);
                        let d = d.to_f64();
                        if encoding == Encoding::Q8_0 {
                            for v in block.iter_mut() {
                                let q = next() as u8;
                                raw.data.push(q);
                                *v = d * f64::from(q as i8);
                            }
                            continue;
                        }
                        let four_one = encoding == Encoding::Q4_1;
                        if four_one {
                            raw.data.extend(m.to_le_bytes());
                        }
                        let value = |q: u8| match four_one {
                            true => d * f64::from(q) + m.to_f64(),
                            false => d * (f64::from(q) - 8.0),
                        };
                        for i in 0..16 {
                            let byte = next() as u8;
                            raw.data.push(byte);
                            block[i] = value(byte & 15);
                            block[i + 16] = value(byte >> 4);
                        }
                    }
                }
                Encoding::Int8Rows => {
                    let scale = 0.1 + (next() % 100) as f32 * 1e-2;
                    raw.scales.extend(scale.to_le_bytes());
                    for v in row {
                        let q = (next() % 255) as i64 - 127;
                        raw.data.push(q as u8);
                        *v = q as f64 * f64::from(scale) / 127.0;
                    }
                }
                Encoding::Affine { bits, group } => {
                    for part in row.chunks_exact_mut(group) {
                        let s = bf((next() % 200) as f32 * 1e-4 - 0.01);
                        let b = bf((next() % 200) as f32 * 1e-3 - 0.1);
                        raw.scales.extend(s.to_le_bytes());
                        raw.biases.extend(b.to_le_bytes());
                        for pair in part.chunks_exact_mut(2) {
                            let q = [next() as u8, next() as u8].map(|q| match bits {
                                8 => q,
                                _ => q & 15,
                            });
                            for (v, q) in pair.iter_mut().zip(q) {
                                *v = s.to_f64() * f64::from(q) + b.to_f64();
                            }
                            match bits {
                                8 => raw.data.extend(q),
                                _ => raw.data.push(q[0] | q[1] << 4),
                            }
                        }
                    }
                }
                _ => unreachable!(),
            }
        }
        (raw, values)
    }

    fn packed(isa: Isa, encoding: Encoding, n: usize, k: usize, raw: &RawRows) -> Packed {
        let mut packer = Packer {
            arena: Arena::default(),
            isa,
            bits: WeightBits::F32,
        };
        let part = |bytes: &[u8], rows: &std::ops::Range<usize>| {
            let each = bytes.len() / n;
            bytes[rows.start * each..rows.end * each].to_vec()
        };
        packer
            .stream(n, k, encoding, &|rows, into| {
                into.data = part(&raw.data, &rows);
                into.scales = part(&raw.scales, &rows);
                into.biases = part(&raw.biases, &rows);
                Ok(())
            })
            .unwrap()
    }

    const ENCODINGS: [Encoding; 7] = [
        Encoding::Q8_0,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Int8Rows,
        Encoding::Affine { bits: 8, group: 64 },
        Encoding::Affine { bits: 4, group: 32 },
        Encoding::Affine {
            bits: 8,
            group: 128,
        },
    ];

    #[test]
    fn products_equal_double_precision_on_the_dequantised_weights() {
        for encoding in ENCODINGS {
            for (n, k, rows) in [(40, 128, 1), (97, 384, 11), (32, 256, 3)] {
                let (raw, values) = random(encoding, n, k);
                let mut next = noise(3);
                let a: Vec<f32> = (0..rows * k)
                    .map(|i| ((next() % 2001) as f32 / 1000.0 - 1.0) * (1.0 + (i / 50) as f32))
                    .collect();
                let mut results: Vec<Vec<f32>> = Vec::new();
                for isa in Isa::available() {
                    let w = packed(isa, encoding, n, k, &raw);
                    for (o, i) in [(0, 0), (n - 1, k - 1), (n / 2, 37), (3, 2), (33 % n, 1)] {
                        let got = f64::from(w.get(o, i));
                        assert!(
                            (got - values[o * k + i]).abs() < 1e-6,
                            "{encoding:?} {o} {i}"
                        );
                    }
                    let mut out = vec![0f32; rows * n];
                    let to = Out::raw(&mut out, Rows::packed(rows, n));
                    matmul(&w, &a, Rows::packed(rows, k), rows, to);
                    for m in 0..rows {
                        // Each row alone gives the same bits.
                        let mut one = vec![0f32; n];
                        let to = Out::raw(&mut one, Rows::packed(1, n));
                        matmul(&w, &a[m * k..][..k], Rows::packed(1, k), 1, to);
                        assert_eq!(one, out[m * n..][..n], "{isa:?} {encoding:?}");
                        for o in 0..n {
                            let (mut sum, mut size) = (0f64, 0f64);
                            for i in 0..k {
                                let p = f64::from(a[m * k + i]) * values[o * k + i];
                                sum += p;
                                size += p.abs();
                            }
                            let error = (f64::from(one[o]) - sum).abs();
                            assert!(error < 3e-5 * size, "{isa:?} {encoding:?} {error} {size}");
                        }
                    }
                    results.push(out);
                }
                let fused: Vec<_> = results.iter().take(results.len() - 1).collect();
                assert!(
                    fused.windows(2).all(|w| w[0] == w[1]),
                    "{encoding:?}: sets differ"
                );
            }
        }
    }

    #[test]
    fn zeros_and_tiny_values_stay_finite() {
        let (raw, _) = random(Encoding::Q8_0, 32, 64);
        for isa in Isa::available() {
            let w = packed(isa, Encoding::Q8_0, 32, 64, &raw);
            for value in [0.0, 1e-44, 1e-38, 1e30] {
                let a = vec![value; 64];
                let mut out = vec![f32::NAN; 32];
                let to = Out::raw(&mut out, Rows::packed(1, 32));
                matmul(&w, &a, Rows::packed(1, 64), 1, to);
                assert!(out.iter().all(|v| v.is_finite()), "{value}");
            }
        }
    }
}

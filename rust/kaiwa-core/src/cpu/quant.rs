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
use super::pool::{self, Shared};
use super::simd::Simd;

/// Outputs of a panel, for every instruction set.
pub(super) const WIDTH: usize = 32;

/// Bytes between what a tile of several rows reads and what it asks the memory for. With the time
/// that its sums take, the processor's own foresight stays too close; with a row or two it is
/// better left alone.
const AHEAD: usize = 4096;

/// Activations below which other threads are not asked to round them.
const ROUND_WORK: usize = 1 << 13;

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
    /// `[rows, groups]`: one over it.
    inverse: Vec<f32>,
    /// `[rows, groups]`: sum of the integers, or nothing.
    sum: Vec<i32>,
    /// `[rows, groups]`: that sum times the weights' offset, or nothing.
    start: Vec<i32>,
    groups: usize,
}

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

/// Rounds `rows` rows of `k` floats and gives them to `work`.
pub(super) fn with_activations<R>(
    isa: Isa,
    k: usize,
    q: Quant,
    rows: usize,
    row: impl Fn(usize) -> *const f32 + Sync + Send,
    work: impl FnOnce(&Activations) -> R,
) -> R {
    // Taken out, not borrowed: a thread that waits for others may start another product.
    let mut x = ACTIVATIONS.take();
    let groups = k / q.group;
    // Sums of integers are wanted by offsets and biases only.
    let summed = if q.offset != 0 || q.bias { groups } else { 0 };
    x.groups = groups;
    x.pairs.resize(rows * k / 2, 0);
    x.scale.resize(rows * groups, 0.0);
    x.inverse.resize(rows * groups, 0.0);
    x.sum.resize(rows * summed, 0);
    let (pairs, scale) = (Shared::new(&mut x.pairs), Shared::new(&mut x.scale));
    let (inverse, sum) = (Shared::new(&mut x.inverse), Shared::new(&mut x.sum));
    pool::for_each_if(rows * k > ROUND_WORK, rows, |m| {
        // SAFETY: `matmul` checked that row `m` holds `k` floats, which stay borrowed; each task
        // writes its own row of the buffers, which have just been made to fit.
        unsafe {
            round_row(
                isa,
                std::slice::from_raw_parts(row(m), k),
                q.group,
                std::slice::from_raw_parts_mut(pairs.get().add(m * k / 2), k / 2),
                std::slice::from_raw_parts_mut(scale.get().add(m * groups), groups),
                std::slice::from_raw_parts_mut(inverse.get().add(m * groups), groups),
                std::slice::from_raw_parts_mut(sum.get().add(m * summed), summed),
            );
        }
    });
    x.start.clear();
    if q.offset != 0 {
        x.start
            .extend(x.sum.iter().map(|sum| sum.wrapping_mul(q.offset)));
    }
    let result = work(&x);
    ACTIVATIONS.set(x);
    result
}

kernel! {
    /// One row of activations to i16 pairs.
    fn round_row = round_body(x: &[f32], group: usize, pairs: &mut [i32], scale: &mut [f32], inverse: &mut [f32], sum: &mut [i32])
}

#[inline(always)]
unsafe fn round_body<S: Simd>(
    x: &[f32],
    group: usize,
    pairs: &mut [i32],
    scale: &mut [f32],
    inverse: &mut [f32],
    sum: &mut [i32],
) {
    // In three sweeps, so that the divisions are done many at a time.
    for (values, scale) in x.chunks_exact(group).zip(&mut *scale) {
        let (whole, rest) = values.as_chunks::<16>();
        // SAFETY: each chunk is sixteen floats.
        let mut largest = unsafe {
            let mut top = S::splat(0.0);
            for v in whole {
                top = S::max(S::abs(S::load(v.as_ptr())), top);
            }
            S::hmax(top)
        };
        for v in rest {
            largest = if v.abs() > largest { v.abs() } else { largest };
        }
        *scale = largest;
    }
    for (scale, inverse) in scale.iter_mut().zip(&mut *inverse) {
        let step = *scale * (1.0 / 32767.0);
        // A group of zeros (or of values too small to invert) counts as zeros.
        let enough = step >= f32::MIN_POSITIVE;
        *inverse = if enough { 1.0 / step } else { 0.0 };
        *scale = if *inverse == 0.0 { 0.0 } else { step };
    }
    let groups = x.chunks_exact(group).zip(pairs.chunks_exact_mut(group / 2));
    for (g, (values, out)) in groups.enumerate() {
        let (whole, rest) = values.as_chunks::<16>();
        // SAFETY: whole vectors come from whole chunks of sixteen and go to as many pairs.
        unsafe {
            let by = S::splat(inverse[g]);
            let mut total = S::isplat(0);
            for (v, out) in whole.iter().zip(out.as_chunks_mut::<8>().0) {
                let v = S::mul(S::load(v.as_ptr()), by);
                total = S::iadd(total, S::round_pairs(out.as_mut_ptr(), v));
            }
            if !rest.is_empty() {
                let mut last = [0f32; 16];
                last[..rest.len()].copy_from_slice(rest);
                let mut pairs = [0i32; 8];
                let v = S::mul(S::load(last.as_ptr()), by);
                total = S::iadd(total, S::round_pairs(pairs.as_mut_ptr(), v));
                out[whole.len() * 8..].copy_from_slice(&pairs[..rest.len() / 2]);
            }
            if !sum.is_empty() {
                sum[g] = S::isum(total);
            }
        }
    }
}

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
    // Registers hold two vectors of sums a row, and with four bits also what was unpacked; eight
    // rows would have to share them. The second tile finds the panel in a cache.
    let most = if S::NV == 2 && q.bits == 8 { MR } else { 4 };
    let height = count.div_ceil(count.div_ceil(most).max(1));
    if height > 2 {
        // What the first tile does not ask for in time.
        let first = job.w.data.bytes()[panels.0 * bytes..].as_ptr();
        for at in (0..AHEAD.min(bytes)).step_by(64) {
            S::prefetch(first.wrapping_add(at));
        }
    }
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
        ($bits:literal, $($h:literal $v:literal,)*) => {
            match mr {
                // SAFETY: the caller's promise.
                $($h => unsafe { tile::<S, $bits, $h, $v>(q, x, m, data, out) },)*
                _ => unreachable!("a tile has at most MR rows"),
            }
        };
    }
    if S::NV == 2 {
        match q.bits {
            8 => heights!(8, 1 2, 2 2, 3 2, 4 2, 5 2, 6 2, 7 2, 8 2,),
            _ => heights!(4, 1 2, 2 2, 3 2, 4 2, 5 2, 6 2, 7 2, 8 2,),
        }
    } else {
        match q.bits {
            8 => heights!(8, 1 2, 2 2, 3 1, 4 1,),
            _ => heights!(4, 1 2, 2 2, 3 1, 4 1,),
        }
    }
}

/// `H` rows times one panel, `V` of the panel's two vectors at a time.
#[inline(always)]
unsafe fn tile<S: Simd, const BITS: u8, const H: usize, const V: usize>(
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
        let (steps, sums, starts) = (x.scale.as_ptr(), x.sum.as_ptr(), x.start.as_ptr());
        let mut p = data;
        for g in 0..groups {
            let at = |i: usize| (m + i) * groups + g;
            let x: [*const i32; H] = std::array::from_fn(|i| rows[i].add(g * half));
            for first in (0..2).step_by(V) {
                let ints = p.add(q.head() + first * 32);
                let mut acc = [[S::isplat(0); V]; H];
                if q.offset != 0 {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        *acc = [S::isplat(*starts.add(at(i))); V];
                    }
                }
                if BITS == 8 {
                    for j in 0..half {
                        if H > 2 && first == 0 {
                            S::prefetch(ints.wrapping_add(j * 64 + AHEAD));
                        }
                        let mut w = [S::pair_splat(0); V];
                        for (v, w) in w.iter_mut().enumerate() {
                            *w = S::load_i8_pairs(ints.add(j * 64 + v * 32).cast());
                        }
                        for i in 0..H {
                            let pair = S::pair_splat(*x[i].add(j));
                            for v in 0..V {
                                acc[i][v] = S::dot(acc[i][v], w[v], pair);
                            }
                        }
                    }
                } else {
                    for j in 0..half / 2 {
                        if H > 2 && first == 0 {
                            S::prefetch(ints.wrapping_add(j * 64 + AHEAD));
                        }
                        let (mut low, mut high) = ([S::pair_splat(0); V], [S::pair_splat(0); V]);
                        for v in 0..V {
                            (low[v], high[v]) = S::load_nibble_pairs(ints.add(j * 64 + v * 32));
                        }
                        for i in 0..H {
                            let pair = S::pair_splat(*x[i].add(2 * j));
                            for v in 0..V {
                                acc[i][v] = S::dot(acc[i][v], low[v], pair);
                            }
                            let pair = S::pair_splat(*x[i].add(2 * j + 1));
                            for v in 0..V {
                                acc[i][v] = S::dot(acc[i][v], high[v], pair);
                            }
                        }
                    }
                }
                for v in 0..V {
                    let word = p.cast::<u16>().add((first + v) * 16);
                    let scale = load_scale::<S>(q.scale, word);
                    for i in 0..H {
                        let by = S::splat(*steps.add(at(i)));
                        let total = &mut total[i][first + v];
                        *total = S::fma(S::to_f32(acc[i][v]), S::mul(scale, by), *total);
                    }
                    if q.bias {
                        let bias = load_scale::<S>(q.scale, word.add(WIDTH));
                        for (i, total) in total.iter_mut().enumerate() {
                            let sum = S::splat(*steps.add(at(i)) * *sums.add(at(i)) as f32);
                            total[first + v] = S::fma(bias, sum, total[first + v]);
                        }
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
    use super::{Quant, ScaleKind, with_activations};
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

    const ENCODINGS: [Encoding; 8] = [
        Encoding::Q8_0,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Int8Rows,
        Encoding::Affine { bits: 8, group: 64 },
        Encoding::Affine { bits: 4, group: 32 },
        // Less than a vector of activations.
        Encoding::Affine { bits: 8, group: 8 },
        Encoding::Affine {
            bits: 8,
            group: 128,
        },
    ];

    #[test]
    fn products_equal_double_precision_on_the_dequantised_weights() {
        for encoding in ENCODINGS {
            for (n, k, rows) in [(40, 128, 1), (97, 384, 11), (32, 256, 3), (64, 2176, 8)] {
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
    fn activations_are_rounded_as_plain_arithmetic_rounds_them() {
        for group in [8, 20, 32, 64, 128] {
            let (k, rows) = (group * 5, 3);
            let mut next = noise(11);
            let mut a: Vec<f32> = (0..rows * k)
                .map(|i| ((next() % 20_001) as f32 - 1e4) * 10f32.powi((i / group) as i32 - 7))
                .collect();
            a[group..2 * group].fill(0.0);
            a[2 * group..3 * group].fill(1e-40);
            let q = Quant {
                bits: 4,
                group,
                scale: ScaleKind::F16,
                bias: true,
                offset: -8,
            };
            for isa in Isa::available() {
                let row = |m: usize| a[m * k..].as_ptr();
                with_activations(isa, k, q, rows, row, |x| {
                    for (g, values) in a.chunks_exact(group).enumerate() {
                        let step = values.iter().fold(0f32, |m, v| m.max(v.abs())) / 32767.0;
                        let scale = x.scale[g];
                        assert!((scale - step).abs() <= step * 1e-6 || scale == 0.0);
                        let mut total = 0;
                        for (i, v) in values.iter().enumerate() {
                            let pair = x.pairs[(g * group + i) / 2];
                            let got = (pair >> (16 * (i % 2))) as i16;
                            let want = match scale == 0.0 {
                                true => 0,
                                false => (v * (1.0 / scale)).round_ties_even() as i16,
                            };
                            assert_eq!(got, want, "{isa:?} {group} {v}");
                            total += i32::from(want);
                        }
                        assert_eq!((x.sum[g], x.start[g]), (total, -8 * total));
                    }
                });
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

//! Matrices of 8-bit and 4-bit integers with scales, and their product with f32 rows.
//!
//! A weight is `scale * (q + offset) + bias` with an unsigned integer `q` and a scale (and bias) per
//! `group` inputs of an output, or one scale an output. Activations are rounded to 16 bits with one
//! scale per 128 inputs: that keeps their error below 2e-5 of the largest among these, so a product
//! equals f32 arithmetic on the dequantised weights to about 1e-5. The inner loop is the
//! processor's integer dot product: of bytes with VNNI, which takes each activation as two bytes,
//! of 16-bit pairs elsewhere. Integer sums are exact, so instruction sets and batches agree bit for
//! bit.
//!
//! Layout: panels of 16 outputs, in a panel group after group, everything of a group together: its
//! scales (16 x 16 bit), its biases, then the integers, four neighbouring inputs of an output side
//! by side, outputs next, inputs slowest. Four-bit values of inputs `8c + j` and `8c + 4 + j` share
//! a byte. One forward sweep reads all of it.
//!
//! Activations of the rows that share a register tile lie side by side, so that a tile finds them
//! all from one pointer.

use std::cell::RefCell;

use half::{bf16, f16};

use super::gemm::{Job, finish_row};
use super::isa::{Isa, integer_kernel};
use super::pack::Packed;
use super::pool;
use super::simd::Simd;

/// Outputs of a panel, for every instruction set.
pub(super) const WIDTH: usize = 16;

/// Bytes between what a tile of several rows reads and what it asks the memory for. With the time
/// that its sums take, the processor's own foresight stays too close; with a row or two it is
/// better left alone.
const AHEAD: usize = 4096;

/// Activations that are worth another thread's help with rounding.
const ROUND_WORK: usize = 1 << 13;

/// Rows of a register tile at most. Eight would fit AVX-512's registers, but not with anything to
/// spare: that is slower than two tiles, of which the second finds the panel in a cache.
const MR: usize = 4;

/// Largest rounded activation: both of its bytes are then within -128..=127.
const LARGEST: f32 = 32639.0;

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
    /// 8 or 4, unsigned.
    pub bits: u8,
    /// Inputs per scale, a multiple of [`Self::chunk`] that divides the inputs; at most
    /// [`MAX_GROUP`].
    pub group: usize,
    pub scale: ScaleKind,
    /// True if each group has a bias, in the type of its scale.
    pub bias: bool,
    /// Added to every integer.
    pub offset: i32,
}

/// Largest group: 128 inputs of at most 255 times 32639 stay within an i32.
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

    /// Inputs of an output that lie side by side: four bytes.
    pub(super) fn chunk(&self) -> usize {
        32 / usize::from(self.bits)
    }

    /// Byte of a value inside its group's integers, and the shift of its bits.
    #[inline(always)]
    pub(super) fn place(&self, output: usize, input: usize) -> (usize, u32) {
        let (chunk, i) = (input / self.chunk(), input % self.chunk());
        (4 * (chunk * WIDTH + output) + i % 4, i as u32 / 4 * 4)
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
        let q = i32::from(byte >> shift) & ((1 << self.bits) - 1);
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

/// Rows of activations as integers, in blocks of `height` rows: [`Shape`] says where what lies.
#[derive(Default)]
pub(super) struct Activations {
    shape: Shape,
    /// Two words for each four inputs of a row, in the form that the instruction set multiplies.
    quads: Vec<[i32; 2]>,
    /// Value of one step of the integers of a row and span.
    step: Vec<f32>,
    /// Sum of the integers of a row and group: exact in 24 bits.
    sum: Vec<f32>,
    /// That sum times the weights' offset.
    start: Vec<i32>,
}

/// Where the activations of a row lie.
#[derive(Default, Clone, Copy)]
struct Shape {
    /// Rows of a block; the last block may hold fewer.
    height: usize,
    groups: usize,
    /// Fours of inputs in a group.
    quads: usize,
    /// Groups of a span: they share the step of the activations.
    span: usize,
}

impl Shape {
    /// Spans of a row.
    #[inline(always)]
    fn spans(&self) -> usize {
        self.groups / self.span
    }

    /// Index of a row and group among those of all rows.
    #[inline(always)]
    fn at(&self, row: usize, group: usize) -> usize {
        (row / self.height * self.groups + group) * self.height + row % self.height
    }

    /// Index of a row and span among those of all rows.
    #[inline(always)]
    fn span_at(&self, row: usize, span: usize) -> usize {
        (row / self.height * self.spans() + span) * self.height + row % self.height
    }

    /// Index of the first four inputs of a row and group; the next ones are `height` apart.
    #[inline(always)]
    fn quad(&self, row: usize, group: usize) -> usize {
        (row / self.height * self.groups + group) * self.quads * self.height + row % self.height
    }
}

/// Rows of a block: as equal as can be, so that no tile is left with a row or two.
pub(super) fn height(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(MR).max(1)).max(1)
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
    let mut span = (MAX_GROUP / q.group).max(1);
    while !groups.is_multiple_of(span) {
        span -= 1;
    }
    let shape = Shape {
        height: height(rows),
        groups,
        quads: q.group / 4,
        span,
    };
    x.shape = shape;
    let room = rows.next_multiple_of(shape.height) * shape.groups;
    x.quads.resize(room * shape.quads, [0; 2]);
    x.step.resize(room / span, 0.0);
    x.sum.resize(room, 0.0);
    x.start.resize(room, 0);
    let to = Rounded {
        shape,
        offset: q.offset,
        quads: x.quads.as_mut_ptr(),
        step: x.step.as_mut_ptr(),
        sum: x.sum.as_mut_ptr(),
        start: x.start.as_mut_ptr(),
    };
    // Cut along the inputs: rows lie too close together for several threads.
    let tasks = (rows * k / ROUND_WORK).clamp(1, shape.spans().clamp(1, 8));
    pool::for_each(tasks, |t| {
        let range = (t * shape.spans() / tasks, (t + 1) * shape.spans() / tasks);
        for m in 0..rows {
            // SAFETY: `matmul` checked that row `m` holds `k` floats, which stay borrowed; each
            // task writes spans of its own to the buffers, which have just been made to fit.
            unsafe {
                let values = std::slice::from_raw_parts(row(m), k);
                round_row(isa, values, &to, m, range);
            }
        }
    });
    let result = work(&x);
    ACTIVATIONS.set(x);
    result
}

/// Where rounded rows go.
struct Rounded {
    shape: Shape,
    offset: i32,
    quads: *mut [i32; 2],
    step: *mut f32,
    sum: *mut f32,
    start: *mut i32,
}

// SAFETY: the pointers come from buffers that outlive the parallel loop, whose tasks write spans
// of their own.
unsafe impl Send for Rounded {}
// SAFETY: as above.
unsafe impl Sync for Rounded {}

integer_kernel! {
    /// Some spans of row `m` to integers.
    fn round_row = round_body(x: &[f32], to: &Rounded, m: usize, spans: (usize, usize))
}

#[inline(always)]
unsafe fn round_body<S: Simd>(x: &[f32], to: &Rounded, m: usize, spans: (usize, usize)) {
    let shape = &to.shape;
    let group = 4 * shape.quads;
    for span in spans.0..spans.1 {
        let values = &x[span * shape.span * group..][..shape.span * group];
        // SAFETY: each chunk is sixteen floats.
        let mut largest = unsafe {
            let mut top = S::splat(0.0);
            for v in values.as_chunks::<16>().0 {
                top = S::max(S::abs(S::load(v.as_ptr())), top);
            }
            S::hmax(top)
        };
        for v in values.as_chunks::<16>().1 {
            largest = if v.abs() > largest { v.abs() } else { largest };
        }
        let step = largest * (1.0 / LARGEST);
        // A span of zeros (or of values too small to invert) counts as zeros.
        let (step, inverse) = match step >= f32::MIN_POSITIVE {
            true => (step, 1.0 / step),
            false => (0.0, 0.0),
        };
        // SAFETY: the caller promises room for the span's integers, sums and step.
        unsafe {
            to.step.add(shape.span_at(m, span)).write(step);
            for (g, values) in values.chunks_exact(group).enumerate() {
                let at = (m, span * shape.span + g);
                let sum = round_group::<S>(values, inverse, to, at);
                let at = shape.at(at.0, at.1);
                to.sum.add(at).write(sum as f32);
                to.start.add(at).write(sum.wrapping_mul(to.offset));
            }
        }
    }
}

/// One group of a row, `at` its row and number; returns the sum of the integers.
#[inline(always)]
unsafe fn round_group<S: Simd>(
    values: &[f32],
    inverse: f32,
    to: &Rounded,
    at: (usize, usize),
) -> i32 {
    let (whole, rest) = values.as_chunks::<16>();
    // SAFETY: a vector is sixteen values, which are four quads; the caller promises room for all.
    unsafe {
        let mut out = to.quads.add(to.shape.quad(at.0, at.1));
        let by = S::splat(inverse);
        let mut total = S::isplat(0);
        for v in whole {
            let v = S::mul(S::load(v.as_ptr()), by);
            total = S::iadd(total, S::round_quads(out, to.shape.height, v));
            out = out.add(4 * to.shape.height);
        }
        if !rest.is_empty() {
            let (mut last, mut four) = ([0f32; 16], [[0i32; 2]; 4]);
            last[..rest.len()].copy_from_slice(rest);
            let v = S::mul(S::load(last.as_ptr()), by);
            total = S::iadd(total, S::round_quads(four.as_mut_ptr(), 1, v));
            for quad in &four[..rest.len() / 4] {
                out.write(*quad);
                out = out.add(to.shape.height);
            }
        }
        S::isum(total)
    }
}

integer_kernel! {
    /// The rectangle of panels and rows that one task computes.
    fn quant_panels = panels_body(job: &Job<'_>, q: Quant, x: &Activations, panels: (usize, usize), rows: (usize, usize))
}

/// The rectangle of panels and rows that one task computes; it begins with a block of rows.
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
    let height = x.shape.height;
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
                    let scale = S::load(job.w.row_scale.as_ptr().add(panel * WIDTH));
                    for i in 0..mr {
                        let p = sums.add(i * WIDTH);
                        S::store(p, S::mul(S::load(p), scale));
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
                _ => unreachable!("a tile has no more rows than `height` says"),
            }
        };
    }
    match q.bits {
        8 => heights!(8, 1 2 3 4),
        _ => heights!(4, 1 2 3 4),
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
    let Shape { height, quads, .. } = x.shape;
    // SAFETY: `data` holds the panel's groups; `x` holds rows `m..m + H` of one block; `out` holds
    // `H * WIDTH`.
    unsafe {
        for i in 0..H {
            S::store(out.add(i * WIDTH), S::splat(0.0));
        }
        let mut p = data;
        let mut values = x.quads.as_ptr().add(x.shape.quad(m, 0)).cast::<i32>();
        for span in 0..x.shape.spans() {
            let mut part = [S::splat(0.0); H];
            for g in 0..x.shape.span {
                let at = x.shape.at(m, span * x.shape.span + g);
                let starts = x.start.as_ptr().add(at);
                let ints = p.add(q.head());
                let mut acc: [S::A; H] = std::array::from_fn(|i| S::open(*starts.add(i)));
                for j in 0..quads * BITS as usize / 8 {
                    if H > 2 {
                        S::prefetch(ints.wrapping_add(j * 64 + AHEAD));
                    }
                    if BITS == 8 {
                        let w = S::load_quads(ints.add(j * 64));
                        for (i, acc) in acc.iter_mut().enumerate() {
                            *acc = S::dot_quads(*acc, w, values.add(2 * i));
                        }
                        values = values.add(2 * height);
                    } else {
                        let (low, high) = S::load_nibble_quads(ints.add(j * 64));
                        for (i, acc) in acc.iter_mut().enumerate() {
                            *acc = S::dot_quads(*acc, low, values.add(2 * i));
                        }
                        values = values.add(2 * height);
                        for (i, acc) in acc.iter_mut().enumerate() {
                            *acc = S::dot_quads(*acc, high, values.add(2 * i));
                        }
                        values = values.add(2 * height);
                    }
                }
                let scale = load_scale::<S>(q.scale, p.cast());
                for (part, acc) in part.iter_mut().zip(acc) {
                    *part = S::fma(S::to_f32(S::close(acc)), scale, *part);
                }
                if q.bias {
                    let bias = load_scale::<S>(q.scale, p.cast::<u16>().add(WIDTH));
                    let sums = x.sum.as_ptr().add(at);
                    for (i, part) in part.iter_mut().enumerate() {
                        *part = S::fma(bias, S::splat(*sums.add(i)), *part);
                    }
                }
                p = p.add(q.group_bytes());
            }
            // The sums so far are in memory: registers are full.
            let steps = x.step.as_ptr().add(x.shape.span_at(m, span));
            for (i, part) in part.iter().enumerate() {
                let to = out.add(i * WIDTH);
                S::store(to, S::fma(*part, S::splat(*steps.add(i)), S::load(to)));
            }
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
    use super::{LARGEST, Quant, ScaleKind, with_activations};
    use crate::checkpoint::{Encoding, RawRows};

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
            for (n, k, rows) in [
                (40, 128, 1),
                (97, 384, 11),
                (32, 256, 3),
                (64, 2176, 8),
                (20, 640, 29),
            ] {
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

    /// Input `i` of four, from the form that the instruction set multiplies.
    fn integer(isa: Isa, quad: [i32; 2], i: usize) -> i32 {
        if isa.name() == "avx512vnni" {
            let [high, low] = quad.map(|word| i32::from((word >> (8 * i)) as i8));
            return 256 * high + low;
        }
        i32::from((quad[i % 2] >> (i / 2 * 16)) as i16)
    }

    #[test]
    fn activations_are_rounded_as_plain_arithmetic_rounds_them() {
        for group in [8, 20, 32, 64, 128] {
            let (groups, rows) = (if group == 32 { 8 } else { 5 }, 3);
            let k = group * groups;
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
                    let span = x.shape.span * group;
                    for (g, values) in a.chunks_exact(group).enumerate() {
                        let shared = &a[g * group / span * span..][..span];
                        let step = shared.iter().fold(0f32, |m, v| m.max(v.abs())) / LARGEST;
                        let (row, g) = (g / groups, g % groups);
                        let scale = x.step[x.shape.span_at(row, g / x.shape.span)];
                        assert!((scale - step).abs() <= step * 1e-6 || scale == 0.0);
                        let mut total = 0;
                        for (i, v) in values.iter().enumerate() {
                            let quad = x.quads[x.shape.quad(row, g) + i / 4 * x.shape.height];
                            let got = integer(isa, quad, i % 4);
                            let want = match scale == 0.0 {
                                true => 0,
                                false => (v * (1.0 / scale)).round_ties_even() as i32,
                            };
                            assert_eq!(got, want, "{isa:?} {group} {v}");
                            total += want;
                        }
                        let at = x.shape.at(row, g);
                        assert_eq!((x.sum[at], x.start[at]), (total as f32, -8 * total));
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

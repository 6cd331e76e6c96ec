//! Rows of activations as 16-bit integers, for products with integer weights.
//!
//! Activations have one scale per 128 inputs: that keeps their error below 2e-5 of the largest
//! among these. The rows that share a register tile lie side by side, so that a tile finds them all
//! from one pointer.

use std::cell::RefCell;

use crate::cpu::isa::{Isa, integer_kernel};
use crate::cpu::pool;
use crate::cpu::quant::{MAX_GROUP, Quant};
use crate::cpu::simd::Simd;

/// Activations that are worth another thread's help with rounding.
const ROUND_WORK: usize = 1 << 13;

/// Rows of a register tile at most. Eight would fit AVX-512's registers, but not with anything to
/// spare: that is slower than two tiles, of which the second finds the panel in a cache.
pub(super) const MR: usize = 4;

/// Largest rounded activation: both of its bytes are then within -128..=127.
const LARGEST: f32 = 32639.0;

/// Rows of activations as integers, in blocks of `height` rows: [`Shape`] says where what lies.
#[derive(Default)]
pub(super) struct Activations {
    pub(super) shape: Shape,
    /// Two words for each four inputs of a row, in the form that the instruction set multiplies.
    pub(super) quads: Vec<[i32; 2]>,
    /// Value of one step of the integers of a row and span.
    pub(super) step: Vec<f32>,
    /// Sum of the integers of a row and group: exact in 24 bits.
    pub(super) sum: Vec<f32>,
    /// That sum times the weights' offset.
    pub(super) start: Vec<i32>,
}

/// Where the activations of a row lie.
#[derive(Default, Clone, Copy)]
pub(super) struct Shape {
    /// Rows of a block; the last block may hold fewer.
    pub(super) height: usize,
    groups: usize,
    /// Fours of inputs in a group.
    pub(super) quads: usize,
    /// Groups of a span: they share the step of the activations.
    pub(super) span: usize,
}

impl Shape {
    /// Spans of a row.
    #[inline(always)]
    pub(super) fn spans(&self) -> usize {
        self.groups / self.span
    }

    /// Index of a row and group among those of all rows.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, group: usize) -> usize {
        (row / self.height * self.groups + group) * self.height + row % self.height
    }

    /// Index of a row and span among those of all rows.
    #[inline(always)]
    pub(super) fn span_at(&self, row: usize, span: usize) -> usize {
        (row / self.height * self.spans() + span) * self.height + row % self.height
    }

    /// Index of the first four inputs of a row and group; the next ones are `height` apart.
    #[inline(always)]
    pub(super) fn quad(&self, row: usize, group: usize) -> usize {
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

#[cfg(test)]
mod tests {
    use super::super::quantised_tests::noise;
    use super::{LARGEST, with_activations};
    use crate::cpu::Isa;
    use crate::cpu::quant::{Quant, ScaleKind};

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
}

//! Products with integer weights: the processor's integer dot product, of bytes with VNNI, which
//! takes each activation as two bytes, and of 16-bit pairs elsewhere. Integer sums are exact, so
//! instruction sets and batches agree bit for bit.

use super::activations::{Activations, MR, Shape};
use super::job::{Job, finish_row};
use crate::cpu::isa::integer_kernel;
use crate::cpu::quant::{Quant, ScaleKind, WIDTH};
use crate::cpu::simd::Simd;

/// Bytes between what a tile of several rows reads and what it asks the memory for. With the time
/// that its sums take, the processor's own prefetching is too late; with a row or two it is
/// better left alone.
const AHEAD: usize = 4096;

integer_kernel! {
    /// The rectangle of panels and rows that one task computes; it begins with a block of rows.
    pub(super) fn panels_times_rows = panels_body(job: &Job<'_>, q: Quant, x: &Activations, panels: (usize, usize), rows: (usize, usize))
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

//! The matrix kernel: rows of activations times a packed matrix, with everything that follows a
//! linear or convolutional layer fused into the store.
//!
//! A causal convolution over time-major data is a matrix product whose input rows overlap, so
//! convolutions, transposed convolutions and linears are all this one kernel: only [`Rows`]
//! differs. Each output is one chain of multiply-adds over the inputs in order, then
//! `(sum + bias) * scale + residual`, then the activation.

use super::isa::kernel;
use super::ops::{elu, gelu};
use super::pack::{Layout, Packed, Taps, WeightBits};
use super::pool;
use super::quant;
use super::simd::Simd;

/// Where the rows of a matrix lie in a slice: row `m` is row `m % per_slot` of slot
/// `m / per_slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// First element of row 0.
    pub offset: usize,
    /// Rows of one slot.
    pub per_slot: usize,
    /// Elements between the first rows of two slots.
    pub slot_stride: usize,
    /// Elements between two rows of a slot.
    pub row_stride: usize,
}

impl Rows {
    /// Rows of `width` elements, one after the other.
    pub(crate) fn packed(per_slot: usize, width: usize) -> Self {
        Self {
            offset: 0,
            per_slot,
            slot_stride: per_slot * width,
            row_stride: width,
        }
    }

    fn at(&self, m: usize) -> usize {
        self.offset + m / self.per_slot * self.slot_stride + m % self.per_slot * self.row_stride
    }

    /// One past the last element of `rows` rows that are `width` wide.
    fn end(&self, rows: usize, width: usize) -> usize {
        let slots = rows / self.per_slot;
        self.offset
            + slots.saturating_sub(1) * self.slot_stride
            + (self.per_slot - 1) * self.row_stride
            + width
    }
}

/// A function applied to each output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Elu,
    Gelu,
}

/// What is added to the product before it is stored.
#[derive(Clone, Copy)]
pub(crate) enum Residual<'a> {
    None,
    /// What the raw output holds already.
    InPlace,
    /// Rows of another slice.
    Add(&'a [f32], Rows),
}

/// Where the results go. At least one of `raw` and `activated` is present.
pub(crate) struct Out<'a> {
    /// Scale of each output, applied before the residual.
    pub scale: Option<&'a [f32]>,
    pub residual: Residual<'a>,
    /// The plain result.
    pub raw: Option<(&'a mut [f32], Rows)>,
    pub activation: Activation,
    /// The result after the activation.
    pub activated: Option<(&'a mut [f32], Rows)>,
}

impl<'a> Out<'a> {
    /// Only the plain result.
    pub(crate) fn raw(out: &'a mut [f32], rows: Rows) -> Self {
        Self {
            scale: None,
            residual: Residual::None,
            raw: Some((out, rows)),
            activation: Activation::None,
            activated: None,
        }
    }

    /// Only the result after an activation.
    pub(crate) fn activated(activation: Activation, out: &'a mut [f32], rows: Rows) -> Self {
        Self {
            scale: None,
            residual: Residual::None,
            raw: None,
            activation,
            activated: Some((out, rows)),
        }
    }
}

/// Pointers and shapes of one product, shared by its tasks.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) w: &'a Packed,
    a: *const f32,
    a_rows: Rows,
    scale: *const f32,
    residual: *const f32,
    residual_rows: Rows,
    raw: *mut f32,
    raw_rows: Rows,
    activation: Activation,
    activated: *mut f32,
    activated_rows: Rows,
}

// SAFETY: the pointers come from borrows that outlive the parallel loop in `matmul`; tasks read
// the inputs and write disjoint rectangles of the outputs.
unsafe impl Send for Job<'_> {}
// SAFETY: as above.
unsafe impl Sync for Job<'_> {}

/// Multiply-adds below which a task is not worth handing to another thread.
const TASK_WORK: usize = 1 << 17;

/// `out[m, n] = activation((a[m, :] . w[n, :] + bias[n]) * scale[n] + residual[m, n])` for
/// `rows` rows.
///
/// # Panics
/// If a slice is shorter than its [`Rows`] say: an error in the calling layer, not in any input.
pub(crate) fn matmul(w: &Packed, a: &[f32], a_rows: Rows, rows: usize, out: Out<'_>) {
    if rows == 0 {
        return;
    }
    let n = w.n;
    assert!(
        a_rows.end(rows, w.taps.span()) <= a.len(),
        "input rows exceed the input"
    );
    let nowhere = Rows {
        offset: 0,
        per_slot: 1,
        slot_stride: 0,
        row_stride: 0,
    };
    let (raw, raw_rows) = match out.raw {
        Some((slice, r)) => {
            assert!(r.end(rows, n) <= slice.len(), "raw rows exceed the output");
            (slice.as_mut_ptr(), r)
        }
        None => (std::ptr::null_mut(), nowhere),
    };
    let (activated, activated_rows) = match out.activated {
        Some((slice, r)) => {
            assert!(
                r.end(rows, n) <= slice.len(),
                "activated rows exceed the output"
            );
            (slice.as_mut_ptr(), r)
        }
        None => (std::ptr::null_mut(), nowhere),
    };
    let (residual, residual_rows) = match out.residual {
        Residual::None => (std::ptr::null(), nowhere),
        Residual::InPlace => (raw.cast_const(), raw_rows),
        Residual::Add(slice, r) => {
            assert!(
                r.end(rows, n) <= slice.len(),
                "residual rows exceed their slice"
            );
            (slice.as_ptr(), r)
        }
    };
    let scale = out.scale.map_or(std::ptr::null(), |s| {
        assert!(
            s.len() >= w.bias.len(),
            "scale is not padded to whole vectors"
        );
        s.as_ptr()
    });
    let job = Job {
        w,
        a: a.as_ptr(),
        a_rows,
        scale,
        residual,
        residual_rows,
        raw,
        raw_rows,
        activation: out.activation,
        activated,
        activated_rows,
    };

    // Cut by shape alone: first along the outputs, so that each weight is read by one thread;
    // along the rows only when there are too few panels.
    let (panels, columns) = match w.layout {
        Layout::Panels(width) => (n.div_ceil(width), n.next_multiple_of(width)),
        Layout::Rows => (1, 16),
    };
    let work = rows * w.taps.inputs() * columns;
    let tasks = (work / TASK_WORK).clamp(1, 64);
    let panel_tasks = tasks.min(panels);
    // Whole register tiles per task.
    let tile = match w.bits {
        WeightBits::Quant(_) => quant::height(rows),
        _ => 12,
    };
    let row_tasks = (tasks / panel_tasks).clamp(1, rows.div_ceil(tile));
    let rows_each = rows.div_ceil(row_tasks).next_multiple_of(tile).min(rows);
    let row_tasks = rows.div_ceil(rows_each);
    let rectangle = |t: usize| {
        let (p, r) = (t / row_tasks, t % row_tasks);
        let panel_range = (p * panels / panel_tasks, (p + 1) * panels / panel_tasks);
        (
            panel_range,
            (r * rows_each, ((r + 1) * rows_each).min(rows)),
        )
    };
    if let WeightBits::Quant(q) = w.bits {
        let row = |m: usize| a[a_rows.at(m)..].as_ptr();
        quant::with_activations(w.isa, w.taps.inputs(), q, rows, row, |x| {
            pool::for_each(panel_tasks * row_tasks, |t| {
                let (panel_range, row_range) = rectangle(t);
                // SAFETY: as below.
                unsafe { quant::run(w.isa, &job, q, x, panel_range, row_range) }
            });
        });
        return;
    }
    pool::for_each(panel_tasks * row_tasks, |t| {
        let (panel_range, row_range) = rectangle(t);
        // SAFETY: the slices were checked above; tasks cover disjoint rectangles.
        unsafe {
            match w.layout {
                Layout::Rows => thin(w.isa, &job, row_range),
                Layout::Panels(_) => panels_times_rows(w.isa, &job, panel_range, row_range),
            }
        }
    });
}

kernel! {
    /// The rectangle of panels and rows that one task computes.
    fn panels_times_rows = panels_body(job: &Job<'_>, panels: (usize, usize), rows: (usize, usize))
}

#[inline(always)]
unsafe fn panels_body<S: Simd>(job: &Job<'_>, panels: (usize, usize), rows: (usize, usize)) {
    let width = 16 * S::NV;
    let k = job.w.taps.inputs();
    // Tiles of equal height: 16 rows are two of 8, not 12 and 4.
    let count = rows.1 - rows.0;
    let tiles = count.div_ceil(S::MR);
    let height = count.div_ceil(tiles.max(1));
    for panel in panels.0..panels.1 {
        let mut m = rows.0;
        while m < rows.1 {
            let mr = height.min(rows.1 - m);
            let mut a = [job.a; 12];
            for (i, p) in a.iter_mut().enumerate().take(mr) {
                // SAFETY: row `m + i` was checked by `matmul`.
                *p = unsafe { job.a.add(job.a_rows.at(m + i)) };
            }
            let mut acc = std::mem::MaybeUninit::<[f32; 12 * 32]>::uninit();
            let acc = acc.as_mut_ptr().cast::<f32>();
            // SAFETY: `panel * k * width` is inside the packed data; the tile is large enough.
            unsafe {
                match job.w.bits {
                    WeightBits::F32 => {
                        let b = job.w.data.f32s().as_ptr().add(panel * k * width);
                        tile_of::<S, f32>(mr, &a, b, job.w, acc);
                    }
                    WeightBits::Bf16 => {
                        let b = job.w.data.u16s().as_ptr().add(panel * k * width);
                        tile_of::<S, u16>(mr, &a, b, job.w, acc);
                    }
                    WeightBits::Quant(_) => unreachable!("quantised matrices have their own"),
                }
                for i in 0..mr {
                    finish_row::<S>(job, m + i, panel * width, acc.add(i * width), width);
                }
            }
            m += mr;
        }
    }
}

/// A stored weight that widens to f32.
trait Weight: Copy {
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
}
impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller promises sixteen values at `p`.
        unsafe { S::load(p) }
    }
}
impl Weight for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller promises sixteen values at `p`.
        unsafe { S::load_bf16(p) }
    }
}

#[inline(always)]
unsafe fn tile_of<S: Simd, W: Weight>(
    mr: usize,
    a: &[*const f32; 12],
    b: *const W,
    w: &Packed,
    out: *mut f32,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match mr {
                $($h if $h <= S::MR => {
                    // SAFETY: the caller's promise.
                    unsafe { tile::<S, W, $h>(a, b, w, out) }
                })*
                _ => unreachable!("a tile has at most MR rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// `H` rows times one panel, all sums in registers.
#[inline(always)]
unsafe fn tile<S: Simd, W: Weight, const H: usize>(
    rows: &[*const f32; 12],
    mut b: *const W,
    w: &Packed,
    out: *mut f32,
) {
    let width = 16 * S::NV;
    // SAFETY: the rows hold `span` floats each, the panel `inputs * width` weights, and
    // `out` `H * width` floats.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; H];
        let mut a: [*const f32; H] = std::array::from_fn(|i| rows[i]);
        for _ in 0..w.taps.taps {
            for k in 0..w.taps.run {
                let b0 = W::load::<S>(b);
                let b1 = if S::NV == 2 {
                    W::load::<S>(b.add(16))
                } else {
                    b0
                };
                for i in 0..H {
                    let x = S::splat(*a[i].add(k));
                    acc[i][0] = S::fma(x, b0, acc[i][0]);
                    if S::NV == 2 {
                        acc[i][1] = S::fma(x, b1, acc[i][1]);
                    }
                }
                b = b.add(width);
            }
            for p in &mut a {
                *p = p.wrapping_add(w.taps.stride);
            }
        }
        for (i, pair) in acc.iter().enumerate() {
            S::store(out.add(i * width), pair[0]);
            if S::NV == 2 {
                S::store(out.add(i * width + 16), pair[1]);
            }
        }
    }
}

/// Bias, scale, residual, activation and stores of one row of a tile: `width` sums at `acc` that
/// belong to outputs `n0..`.
#[inline(always)]
pub(super) unsafe fn finish_row<S: Simd>(
    job: &Job<'_>,
    m: usize,
    n0: usize,
    acc: *const f32,
    width: usize,
) {
    let n = job.w.n;
    // SAFETY: `matmul` checked every slice for its rows; partial vectors go through a buffer of
    // their own; bias and scale are padded to whole vectors.
    unsafe {
        let bias = job.w.bias.as_ptr();
        let mut v0 = 0;
        while v0 < width && n0 + v0 < n {
            let at = n0 + v0;
            let lanes = (n - at).min(16);
            let mut x = S::add(S::load(acc.add(v0)), S::load(bias.add(at)));
            if !job.scale.is_null() {
                x = S::mul(x, S::load(job.scale.add(at)));
            }
            if !job.residual.is_null() {
                x = S::add(
                    x,
                    load_part::<S>(job.residual.add(job.residual_rows.at(m) + at), lanes),
                );
            }
            if !job.raw.is_null() {
                store_part::<S>(job.raw.add(job.raw_rows.at(m) + at), x, lanes);
            }
            if !job.activated.is_null() {
                let y = match job.activation {
                    Activation::None => x,
                    Activation::Elu => elu::<S>(x),
                    Activation::Gelu => gelu::<S>(x),
                };
                store_part::<S>(job.activated.add(job.activated_rows.at(m) + at), y, lanes);
            }
            v0 += 16;
        }
    }
}

#[inline(always)]
unsafe fn load_part<S: Simd>(p: *const f32, lanes: usize) -> S::F {
    // SAFETY: the caller promises `lanes` floats at `p`.
    unsafe {
        if lanes == 16 {
            return S::load(p);
        }
        let mut t = [0f32; 16];
        std::ptr::copy_nonoverlapping(p, t.as_mut_ptr(), lanes);
        S::load(t.as_ptr())
    }
}

#[inline(always)]
unsafe fn store_part<S: Simd>(p: *mut f32, v: S::F, lanes: usize) {
    // SAFETY: the caller promises room for `lanes` floats at `p`.
    unsafe {
        if lanes == 16 {
            return S::store(p, v);
        }
        let mut t = [0f32; 16];
        S::store(t.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(t.as_ptr(), p, lanes);
    }
}

kernel! {
    /// Rows of a matrix with at most four outputs: dot products along the inputs.
    fn thin = thin_body(job: &Job<'_>, rows: (usize, usize))
}

#[inline(always)]
unsafe fn thin_body<S: Simd>(job: &Job<'_>, rows: (usize, usize)) {
    let w = job.w;
    let Taps { taps, run, stride } = w.taps;
    let padded = w.taps.padded_run();
    for m in rows.0..rows.1 {
        let mut acc = [0f32; 16];
        for (o, sum) in acc.iter_mut().enumerate().take(w.n) {
            // SAFETY: row `m` was checked by `matmul`; weight rows are padded to whole vectors,
            // input tails go through a buffer.
            unsafe {
                let mut total = S::splat(0.0);
                for tap in 0..taps {
                    let a = job.a.add(job.a_rows.at(m) + tap * stride);
                    let b = (o * taps + tap) * padded;
                    for k in (0..run).step_by(16) {
                        let x = load_part::<S>(a.add(k), (run - k).min(16));
                        let y = match w.bits {
                            WeightBits::F32 => S::load(w.data.f32s().as_ptr().add(b + k)),
                            _ => S::load_bf16(w.data.u16s().as_ptr().add(b + k)),
                        };
                        total = S::fma(x, y, total);
                    }
                }
                *sum = S::sum(total);
            }
        }
        // SAFETY: `acc` holds one vector; the row was checked by `matmul`.
        unsafe { finish_row::<S>(job, m, 0, acc.as_ptr(), 16) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Arena, Isa, Packer};

    fn packer(isa: Isa, bits: WeightBits) -> Packer {
        Packer {
            arena: Arena::default(),
            isa,
            bits,
        }
    }

    /// Numbers without pattern, reproducible.
    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761).max(1);
        (0..n)
            .map(|_| {
                s ^= s << 13;
                s ^= s >> 17;
                s ^= s << 5;
                s as f32 / u32::MAX as f32 * 2.0 - 1.0
            })
            .collect()
    }

    /// Every shape of use against a plain double-precision loop, for every instruction set.
    #[test]
    fn equals_a_plain_loop() {
        for isa in Isa::available() {
            for (rows, per_slot, n, taps, run, stride, dilation) in [
                (1, 1, 1, 1, 5, 5, 1),
                (2, 2, 33, 1, 64, 64, 1),
                (12, 4, 32, 3, 16, 16, 1),
                (26, 13, 70, 3, 8, 8, 2),
                (17, 17, 3, 3, 20, 20, 2),
                (300, 150, 64, 7, 1, 1, 1),
                (16, 2, 2048, 1, 256, 256, 1),
            ] {
                let slots = rows / per_slot;
                let tap_stride = run * dilation;
                let span = (taps - 1) * tap_stride + run;
                let slot_stride = (per_slot - 1) * stride + span;
                let a = noise(slots * slot_stride, 1);
                let w = noise(n * taps * run, 2);
                let bias = noise(n, 3);
                let mut scale = noise(n, 4);
                scale.resize(n.next_multiple_of(64), 0.0);
                let residual = noise(rows * n, 5);
                let a_rows = Rows {
                    offset: 0,
                    per_slot,
                    slot_stride,
                    row_stride: stride,
                };
                let packed = packer(isa, WeightBits::F32).pack(
                    n,
                    Taps {
                        taps,
                        run,
                        stride: tap_stride,
                    },
                    Some(&bias),
                    |o, i| w[o * taps * run + i],
                );
                let mut raw = vec![0.0; rows * n];
                let mut act = vec![0.0; rows * n];
                let out = Rows::packed(per_slot, n);
                matmul(
                    &packed,
                    &a,
                    a_rows,
                    rows,
                    Out {
                        scale: Some(&scale),
                        residual: Residual::Add(&residual, out),
                        raw: Some((&mut raw, out)),
                        activation: Activation::Elu,
                        activated: Some((&mut act, out)),
                    },
                );
                for m in 0..rows {
                    for o in 0..n {
                        let mut sum = 0f64;
                        for t in 0..taps {
                            for i in 0..run {
                                sum += f64::from(a[a_rows.at(m) + t * tap_stride + i])
                                    * f64::from(w[(o * taps + t) * run + i]);
                            }
                        }
                        let y = (sum + f64::from(bias[o])) * f64::from(scale[o])
                            + f64::from(residual[m * n + o]);
                        let e = if y > 0.0 { y } else { y.exp_m1() };
                        let tol = 1e-6 * ((taps * run) as f64).sqrt().max(4.0);
                        assert!(
                            (f64::from(raw[m * n + o]) - y).abs() < tol,
                            "{isa:?} {m} {o}"
                        );
                        assert!(
                            (f64::from(act[m * n + o]) - e).abs() < tol,
                            "{isa:?} {m} {o}"
                        );
                        assert_eq!(packed.get(o, 0), w[o * taps * run]);
                    }
                }
            }
        }
    }

    /// A row's bits do not depend on how many rows are computed with it.
    #[test]
    fn a_row_alone_equals_the_row_in_a_batch() {
        for isa in Isa::available() {
            for bits in [WeightBits::F32, WeightBits::Bf16] {
                let (rows, n, k) = (29, 96, 77);
                let (a, w) = (noise(rows * k, 7), noise(n * k, 8));
                let packed = packer(isa, bits).dense(n, k, &w);
                let mut all = vec![0.0; rows * n];
                let out = Rows::packed(rows, n);
                matmul(
                    &packed,
                    &a,
                    Rows::packed(rows, k),
                    rows,
                    Out::raw(&mut all, out),
                );
                for m in 0..rows {
                    let mut one = vec![0.0; n];
                    let (ar, or) = (Rows::packed(1, k), Rows::packed(1, n));
                    matmul(&packed, &a[m * k..], ar, 1, Out::raw(&mut one, or));
                    assert_eq!(one, all[m * n..(m + 1) * n], "{isa:?} {bits:?} row {m}");
                }
            }
        }
    }

    /// bf16 weights are the rounded weights, multiplied exactly as f32.
    #[test]
    fn bf16_is_f32_on_rounded_weights() {
        for isa in Isa::available() {
            for n in [2, 40] {
                let k = 50;
                let (a, w) = (noise(3 * k, 9), noise(n * k, 10));
                let rounded: Vec<f32> = w
                    .iter()
                    .map(|&x| half::bf16::from_f32(x).to_f32())
                    .collect();
                let (mut x, mut y) = (vec![0.0; 3 * n], vec![0.0; 3 * n]);
                let (ar, or) = (Rows::packed(3, k), Rows::packed(3, n));
                let narrow = packer(isa, WeightBits::Bf16).dense(n, k, &w);
                matmul(&narrow, &a, ar, 3, Out::raw(&mut x, or));
                let wide = packer(isa, WeightBits::F32).dense(n, k, &rounded);
                matmul(&wide, &a, ar, 3, Out::raw(&mut y, or));
                assert_eq!(x, y, "{isa:?}");
                assert_eq!(narrow.get(n - 1, k - 1), rounded[n * k - 1]);
            }
        }
    }
}

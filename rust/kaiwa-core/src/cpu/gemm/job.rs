//! One matrix product: where its rows lie, what follows the sums, and the stores that do it.

use crate::cpu::ops::{elu, gelu};
use crate::cpu::pack::Packed;
use crate::cpu::simd::Simd;

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

    pub(super) fn at(&self, m: usize) -> usize {
        self.offset + m / self.per_slot * self.slot_stride + m % self.per_slot * self.row_stride
    }

    /// One past the last element of `rows` rows that are `width` wide.
    pub(super) fn end(&self, rows: usize, width: usize) -> usize {
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
    pub(super) a: *const f32,
    pub(super) a_rows: Rows,
    pub(super) scale: *const f32,
    pub(super) residual: *const f32,
    pub(super) residual_rows: Rows,
    pub(super) raw: *mut f32,
    pub(super) raw_rows: Rows,
    pub(super) activation: Activation,
    pub(super) activated: *mut f32,
    pub(super) activated_rows: Rows,
}

// SAFETY: the pointers come from borrows that outlive the parallel loop in `matmul`; tasks read
// the inputs and write disjoint rectangles of the outputs.
unsafe impl Send for Job<'_> {}
// SAFETY: as above.
unsafe impl Sync for Job<'_> {}

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
pub(super) unsafe fn load_part<S: Simd>(p: *const f32, lanes: usize) -> S::F {
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

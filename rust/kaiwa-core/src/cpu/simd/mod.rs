//! Sixteen f32 lanes on every machine.
//!
//! A kernel is written once against [`Simd`] and compiled for each instruction set. All of them
//! have the same sixteen lanes and the same order of sums, so instruction sets with a fused
//! multiply-add give bit-equal results; only the portable set on x86-64 without FMA rounds twice.
//!
//! The methods are `unsafe` for one reason: they may only run where the processor has the set's
//! instructions. [`crate::cpu::isa`] makes that choice once; nothing else builds these types.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Vnni};
pub(crate) use portable::Portable;

/// A vector of sixteen f32 and what the kernels do with it.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen lanes.
    type F: Copy;
    /// Rows of a register tile of the matrix kernel.
    const MR: usize;
    /// Vectors (of sixteen columns) of a register tile: the panel width is `16 * NV`.
    const NV: usize;

    unsafe fn splat(x: f32) -> Self::F;
    /// Sixteen floats from `p`, any alignment.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Sixteen floats to `p`, any alignment.
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Sixteen bf16 from `p`, widened exactly.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, halves to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for integral lanes in -126..=127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// Lane-wise `a < b ? x : y`.
    unsafe fn select_lt(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;

    /// Sixteen i32 lanes.
    type I: Copy;
    /// Sixteen lanes of two i16 each.
    type W: Copy;
    unsafe fn isplat(x: i32) -> Self::I;
    /// Thirty-two i8 from `p`, widened: lane `i` holds values `2i` and `2i + 1`.
    unsafe fn load_i8_pairs(p: *const i8) -> Self::W;
    /// The pair of i16 in `x` (low half first) in every lane.
    unsafe fn pair_splat(x: i32) -> Self::W;
    /// `acc + w.0 * x.0 + w.1 * x.1` in every lane; exact as long as the sum fits.
    unsafe fn dot(acc: Self::I, w: Self::W, x: Self::W) -> Self::I;
    /// Four unsigned bytes in every lane.
    type Q: Copy;
    /// Sums of products of fours, not yet put together.
    type A: Copy;
    /// Sixty-four bytes from `p`.
    unsafe fn load_quads(p: *const u8) -> Self::Q;
    /// Sixty-four bytes from `p`: their low halves and their high halves.
    unsafe fn load_nibble_quads(p: *const u8) -> (Self::Q, Self::Q);
    /// Sums that begin with `start` in every lane.
    unsafe fn open(start: i32) -> Self::A;
    /// Adds `w . x` in every lane, `x` being two words that [`Self::round_quads`] made of four
    /// values. Exact as long as the sum fits.
    unsafe fn dot_quads(acc: Self::A, w: Self::Q, x: *const i32) -> Self::A;
    unsafe fn close(acc: Self::A) -> Self::I;
    /// Nearest integers (halves to even) of lanes within +-32639: as four factors of
    /// [`Self::dot_quads`], `apart` from one another, and as they are.
    unsafe fn round_quads(to: *mut [i32; 2], apart: usize, v: Self::F) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> Self::F;
    /// Absolute values.
    unsafe fn abs(v: Self::F) -> Self::F;
    /// Nearest integers (halves to even) of lanes within i16: eight pairs to `p`, low half first,
    /// and the integers.
    unsafe fn round_pairs(p: *mut i32, v: Self::F) -> Self::I;
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    /// Sum of the lanes.
    unsafe fn isum(v: Self::I) -> i32;
    /// Sixteen f16 from `p`, widened exactly.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Every lane rounded to the nearest f16.
    unsafe fn round_f16(v: Self::F) -> Self::F;

    /// Asks for the cache line at `p`, which may lie anywhere: nothing is read.
    #[inline(always)]
    fn prefetch(p: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an instruction of the baseline that never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// As [`Self::prefetch`], but only into the second cache, which can wait for many more lines at
    /// once than the first.
    #[inline(always)]
    fn prefetch_far(p: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an instruction of the baseline that never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// Sum of the lanes, pairwise in a fixed order.
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        let mut t = [0f32; 16];
        // SAFETY: `t` holds sixteen floats.
        unsafe { Self::store(t.as_mut_ptr(), v) };
        let mut width = 8;
        while width > 0 {
            for i in 0..width {
                t[i] += t[i + width];
            }
            width /= 2;
        }
        t[0]
    }

    /// Largest lane, of lanes that are numbers.
    #[inline(always)]
    unsafe fn hmax(v: Self::F) -> f32 {
        let mut t = [0f32; 16];
        // SAFETY: `t` holds sixteen floats.
        unsafe { Self::store(t.as_mut_ptr(), v) };
        t.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Neighbouring pairs `(a, b) (c, d)` become `(a, c) (b, d)`, `apart` from the next.
///
/// # Safety
/// There is room for four of them at `to`.
#[inline(always)]
unsafe fn crosswise(pairs: &[i32; 8], to: *mut [i32; 2], apart: usize) {
    for (i, [ab, cd]) in pairs.as_chunks::<2>().0.iter().enumerate() {
        let quad = [
            (ab & 0xffff) | (cd << 16),
            (ab >> 16 & 0xffff) | (cd & !0xffff),
        ];
        // SAFETY: the caller's promise.
        unsafe { to.add(i * apart).write(quad) };
    }
}

/// 1.5 * 2^23: its neighbours are one apart, so adding it rounds to the nearest integer, which is
/// then in the low bits.
pub(in crate::cpu) const MAGIC: f32 = 12_582_912.0;

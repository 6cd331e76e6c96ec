//! Sixteen f32 lanes on every machine.
//!
//! A kernel is written once against [`Simd`] and compiled for each instruction set. All of them
//! have the same sixteen lanes and the same order of sums, so instruction sets with a fused
//! multiply-add give bit-equal results; only the portable set on x86-64 without FMA rounds twice.
//!
//! The methods are `unsafe` for one reason: they may only run where the processor has the set's
//! instructions. [`super::isa`] makes that choice once; nothing else builds these types.

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
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The portable set: plain arrays that the compiler vectorises with whatever the target's
/// baseline has (SSE2 on x86-64, NEON with fused multiply-add on aarch64).
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Sixteen plain floats.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes([f32; 16]);

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    Lanes(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

impl Simd for Portable {
    type F = Lanes;
    const MR: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Lanes {
        Lanes([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Lanes {
        // SAFETY: the caller promises sixteen readable floats at `p`.
        Lanes(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Lanes) {
        // SAFETY: the caller promises sixteen writable floats at `p`.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Lanes {
        // SAFETY: the caller promises sixteen readable values at `p`.
        let raw = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        Lanes(raw.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Without the instruction `mul_add` is a library call per lane, far too slow.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            Lanes(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], c.0[i])))
        } else {
            Lanes(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
        }
    }
    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn round(a: Lanes) -> Lanes {
        // Adding and removing 1.5 * 2^23 rounds to nearest even, without a library call.
        Lanes(a.0.map(|x| (x + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn pow2(n: Lanes) -> Lanes {
        Lanes(n.0.map(|x| f32::from_bits((((x as i32) + 127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Lanes, b: Lanes, x: Lanes, y: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| {
            if a.0[i] < b.0[i] { x.0[i] } else { y.0[i] }
        }))
    }

    type I = [i32; 16];
    type W = [i16; 32];
    #[inline(always)]
    unsafe fn isplat(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load_i8_pairs(p: *const i8) -> [i16; 32] {
        // SAFETY: the caller promises thirty-two readable values at `p`.
        unsafe { p.cast::<[i8; 32]>().read_unaligned() }.map(i16::from)
    }
    #[inline(always)]
    unsafe fn pair_splat(x: i32) -> [i16; 32] {
        let pair = [x as i16, (x >> 16) as i16];
        std::array::from_fn(|i| pair[i % 2])
    }
    #[inline(always)]
    unsafe fn dot(acc: [i32; 16], w: [i16; 32], x: [i16; 32]) -> [i32; 16] {
        std::array::from_fn(|i| {
            let product = |j: usize| i32::from(w[j]) * i32::from(x[j]);
            acc[i] + (product(2 * i) + product(2 * i + 1))
        })
    }
    /// Bytes 0 and 2 of every lane, then bytes 1 and 3, as pairs.
    type Q = [[i16; 32]; 2];
    type A = [i32; 16];
    #[inline(always)]
    unsafe fn load_quads(p: *const u8) -> Self::Q {
        // SAFETY: the caller promises sixty-four readable bytes at `p`.
        let raw = unsafe { p.cast::<[u16; 32]>().read_unaligned() }.map(u16::from_le);
        [raw.map(|v| (v & 255) as i16), raw.map(|v| (v >> 8) as i16)]
    }
    #[inline(always)]
    unsafe fn load_nibble_quads(p: *const u8) -> (Self::Q, Self::Q) {
        // SAFETY: the caller promises sixty-four readable bytes at `p`.
        let raw = unsafe { p.cast::<[u16; 32]>().read_unaligned() }.map(u16::from_le);
        let half = |shift: u32| raw.map(|v| (v >> shift & 15) as i16);
        ([half(0), half(8)], [half(4), half(12)])
    }
    #[inline(always)]
    unsafe fn open(start: i32) -> [i32; 16] {
        [start; 16]
    }
    #[inline(always)]
    unsafe fn dot_quads(acc: [i32; 16], w: Self::Q, x: *const i32) -> [i32; 16] {
        // SAFETY: the caller promises two words at `x`.
        unsafe {
            let acc = Self::dot(acc, w[0], Self::pair_splat(x.read()));
            Self::dot(acc, w[1], Self::pair_splat(x.add(1).read()))
        }
    }
    #[inline(always)]
    unsafe fn close(acc: [i32; 16]) -> [i32; 16] {
        acc
    }
    #[inline(always)]
    unsafe fn round_quads(to: *mut [i32; 2], apart: usize, v: Lanes) -> [i32; 16] {
        let mut pairs = [0i32; 8];
        // SAFETY: room for eight pairs; the caller promises room for four quads.
        unsafe {
            let q = Self::round_pairs(pairs.as_mut_ptr(), v);
            crosswise(&pairs, to, apart);
            q
        }
    }
    #[inline(always)]
    unsafe fn to_f32(v: [i32; 16]) -> Lanes {
        Lanes(v.map(|x| x as f32))
    }
    #[inline(always)]
    unsafe fn abs(v: Lanes) -> Lanes {
        Lanes(v.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn round_pairs(p: *mut i32, v: Lanes) -> [i32; 16] {
        let q =
            v.0.map(|x| ((x + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32));
        let pairs: [i32; 8] = std::array::from_fn(|i| (q[2 * i] & 0xffff) | (q[2 * i + 1] << 16));
        // SAFETY: the caller promises eight writable pairs at `p`.
        unsafe { p.cast::<[i32; 8]>().write_unaligned(pairs) };
        q
    }
    #[inline(always)]
    unsafe fn iadd(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn isum(v: [i32; 16]) -> i32 {
        v.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Lanes {
        // SAFETY: the caller promises sixteen readable values at `p`.
        let raw = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        Lanes(raw.map(|b| half::f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn round_f16(v: Lanes) -> Lanes {
        Lanes(v.0.map(|x| half::f16::from_f32(x).to_f32()))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MAGIC, Simd, crosswise};
    use std::arch::x86_64::*;

    /// AVX-512F/BW, with or without VNNI: one register is one vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Wide<const VNNI: bool>;

    /// AVX-512F/BW.
    pub(crate) type Avx512 = Wide<false>;
    /// AVX-512F/BW and VNNI: the integer products take one instruction instead of two.
    pub(crate) type Avx512Vnni = Wide<true>;

    /// `acc + w . x` over pairs of i16. Not the intrinsic: wherever the compiler takes latency for
    /// the limit it makes two instructions of that, a multiplication and an addition.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn dpwssd(mut acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: one instruction on registers, of a set that this function enables.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {acc}, {w}, {x}",
                acc = inout(zmm_reg) acc,
                w = in(zmm_reg) w,
                x = in(zmm_reg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }

    /// `acc + w . x` over fours of unsigned and signed bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn dpbusd(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, x)
    }

    // SAFETY of every block below: the methods run only after `isa` has found the instruction
    // set; pointers are valid for sixteen elements by the trait's contract; the unaligned load
    // and store forms are used throughout.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl<const VNNI: bool> Simd for Wide<VNNI> {
        type F = __m512;
        const MR: usize = 12;
        const NV: usize = 2;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn pow2(n: __m512) -> __m512 {
            unsafe {
                let e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e))
            }
        }
        #[inline(always)]
        unsafe fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
        }

        type I = __m512i;
        type W = __m512i;
        #[inline(always)]
        unsafe fn isplat(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_i8_pairs(p: *const i8) -> __m512i {
            unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn pair_splat(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn dot(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            unsafe {
                if VNNI {
                    dpwssd(acc, w, x)
                } else {
                    _mm512_add_epi32(acc, _mm512_madd_epi16(w, x))
                }
            }
        }
        /// With VNNI the bytes as they are, twice; else bytes 0 and 2 of every lane, then bytes 1
        /// and 3, as pairs.
        type Q = [__m512i; 2];
        /// With VNNI the sums for the high and for the low bytes of the activations; else the
        /// second is zero.
        type A = [__m512i; 2];
        #[inline(always)]
        unsafe fn load_quads(p: *const u8) -> Self::Q {
            unsafe {
                let v = _mm512_loadu_si512(p.cast());
                if VNNI {
                    return [v, v];
                }
                let even = _mm512_and_si512(v, _mm512_set1_epi16(255));
                [even, _mm512_srli_epi16::<8>(v)]
            }
        }
        #[inline(always)]
        unsafe fn load_nibble_quads(p: *const u8) -> (Self::Q, Self::Q) {
            unsafe {
                let v = _mm512_loadu_si512(p.cast());
                if VNNI {
                    let mask = _mm512_set1_epi8(15);
                    let low = _mm512_and_si512(v, mask);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
                    return ([low, low], [high, high]);
                }
                let mask = _mm512_set1_epi16(15);
                let even = _mm512_and_si512(v, mask);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<8>(v), mask);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
                ([even, odd], [high, _mm512_srli_epi16::<12>(v)])
            }
        }
        #[inline(always)]
        unsafe fn open(start: i32) -> Self::A {
            // The start goes where it is not shifted.
            unsafe {
                match VNNI {
                    true => [_mm512_setzero_si512(), _mm512_set1_epi32(start)],
                    false => [_mm512_set1_epi32(start), _mm512_setzero_si512()],
                }
            }
        }
        #[inline(always)]
        unsafe fn dot_quads(acc: Self::A, w: Self::Q, x: *const i32) -> Self::A {
            unsafe {
                let x = [_mm512_set1_epi32(*x), _mm512_set1_epi32(*x.add(1))];
                if VNNI {
                    return [dpbusd(acc[0], w[0], x[0]), dpbusd(acc[1], w[0], x[1])];
                }
                let sum = _mm512_add_epi32(acc[0], _mm512_madd_epi16(w[0], x[0]));
                [_mm512_add_epi32(sum, _mm512_madd_epi16(w[1], x[1])), acc[1]]
            }
        }
        #[inline(always)]
        unsafe fn close(acc: Self::A) -> __m512i {
            unsafe {
                match VNNI {
                    true => _mm512_add_epi32(_mm512_slli_epi32::<8>(acc[0]), acc[1]),
                    false => acc[0],
                }
            }
        }
        #[inline(always)]
        unsafe fn round_quads(to: *mut [i32; 2], apart: usize, v: __m512) -> __m512i {
            unsafe {
                if !VNNI {
                    let mut pairs = [0i32; 8];
                    let q = Self::round_pairs(pairs.as_mut_ptr(), v);
                    crosswise(&pairs, to, apart);
                    return q;
                }
                let magic = _mm512_set1_ps(MAGIC);
                let bits = _mm512_castps_si512(_mm512_add_ps(v, magic));
                let q = _mm512_sub_epi32(bits, _mm512_castps_si512(magic));
                // 256 * high + low with both of them signed.
                let high = _mm512_srai_epi32::<8>(_mm512_add_epi32(q, _mm512_set1_epi32(128)));
                let (high, low) = (_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(q));
                let first = _mm_castsi128_pd(_mm_unpacklo_epi32(high, low));
                let last = _mm_castsi128_pd(_mm_unpackhi_epi32(high, low));
                _mm_storel_pd(to.cast(), first);
                _mm_storeh_pd(to.add(apart).cast(), first);
                _mm_storel_pd(to.add(2 * apart).cast(), last);
                _mm_storeh_pd(to.add(3 * apart).cast(), last);
                q
            }
        }
        #[inline(always)]
        unsafe fn to_f32(v: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn abs(v: __m512) -> __m512 {
            unsafe { _mm512_abs_ps(v) }
        }
        #[inline(always)]
        unsafe fn round_pairs(p: *mut i32, v: __m512) -> __m512i {
            unsafe {
                let magic = _mm512_set1_ps(MAGIC);
                let bits = _mm512_castps_si512(_mm512_add_ps(v, magic));
                let q = _mm512_sub_epi32(bits, _mm512_castps_si512(magic));
                _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(q));
                q
            }
        }
        #[inline(always)]
        unsafe fn iadd(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn isum(v: __m512i) -> i32 {
            unsafe { _mm512_reduce_add_epi32(v) }
        }
        #[inline(always)]
        unsafe fn hmax(v: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(v) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn round_f16(v: __m512) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
        }
    }

    /// AVX2 with FMA: two registers are one vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    #[inline(always)]
    unsafe fn both(
        a: (__m256, __m256),
        b: (__m256, __m256),
        f: impl Fn(__m256, __m256) -> __m256,
    ) -> (__m256, __m256) {
        (f(a.0, b.0), f(a.1, b.1))
    }

    // SAFETY of every block below: as for `Avx512`.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Simd for Avx2 {
        type F = (__m256, __m256);
        const MR: usize = 6;
        const NV: usize = 1;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::F {
            unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::F {
            unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::F) {
            unsafe {
                _mm256_storeu_ps(p, v.0);
                _mm256_storeu_ps(p.add(8), v.1);
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            unsafe {
                let lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                let hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()));
                (
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(lo)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(hi)),
                )
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_add_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_sub_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_mul_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_div_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe {
                (
                    _mm256_fmadd_ps(a.0, b.0, c.0),
                    _mm256_fmadd_ps(a.1, b.1, c.1),
                )
            }
        }
        #[inline(always)]
        unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_max_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
            unsafe { both(a, b, |x, y| _mm256_min_ps(x, y)) }
        }
        #[inline(always)]
        unsafe fn round(a: Self::F) -> Self::F {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            unsafe {
                (
                    _mm256_round_ps::<NEAREST>(a.0),
                    _mm256_round_ps::<NEAREST>(a.1),
                )
            }
        }
        #[inline(always)]
        unsafe fn pow2(n: Self::F) -> Self::F {
            unsafe {
                let one = |v| {
                    let e = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e))
                };
                (one(n.0), one(n.1))
            }
        }
        #[inline(always)]
        unsafe fn select_lt(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
            unsafe {
                let one = |a, b, x, y| _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
                (one(a.0, b.0, x.0, y.0), one(a.1, b.1, x.1, y.1))
            }
        }

        type I = (__m256i, __m256i);
        type W = (__m256i, __m256i);
        #[inline(always)]
        unsafe fn isplat(x: i32) -> Self::I {
            unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn load_i8_pairs(p: *const i8) -> Self::W {
            unsafe {
                (
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())),
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(16).cast())),
                )
            }
        }
        #[inline(always)]
        unsafe fn pair_splat(x: i32) -> Self::W {
            unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn dot(acc: Self::I, w: Self::W, x: Self::W) -> Self::I {
            unsafe {
                (
                    _mm256_add_epi32(acc.0, _mm256_madd_epi16(w.0, x.0)),
                    _mm256_add_epi32(acc.1, _mm256_madd_epi16(w.1, x.1)),
                )
            }
        }
        /// Bytes 0 and 2 of every lane, then bytes 1 and 3, as pairs.
        type Q = [(__m256i, __m256i); 2];
        type A = (__m256i, __m256i);
        #[inline(always)]
        unsafe fn load_quads(p: *const u8) -> Self::Q {
            unsafe {
                let a = _mm256_loadu_si256(p.cast());
                let b = _mm256_loadu_si256(p.add(32).cast());
                let mask = _mm256_set1_epi16(255);
                [
                    (_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)),
                    (_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn load_nibble_quads(p: *const u8) -> (Self::Q, Self::Q) {
            unsafe {
                let a = _mm256_loadu_si256(p.cast());
                let b = _mm256_loadu_si256(p.add(32).cast());
                let mask = _mm256_set1_epi16(15);
                let low = |v| _mm256_and_si256(v, mask);
                (
                    [
                        (low(a), low(b)),
                        (
                            low(_mm256_srli_epi16::<8>(a)),
                            low(_mm256_srli_epi16::<8>(b)),
                        ),
                    ],
                    [
                        (
                            low(_mm256_srli_epi16::<4>(a)),
                            low(_mm256_srli_epi16::<4>(b)),
                        ),
                        (_mm256_srli_epi16::<12>(a), _mm256_srli_epi16::<12>(b)),
                    ],
                )
            }
        }
        #[inline(always)]
        unsafe fn open(start: i32) -> Self::A {
            unsafe { Self::isplat(start) }
        }
        #[inline(always)]
        unsafe fn dot_quads(acc: Self::A, w: Self::Q, x: *const i32) -> Self::A {
            unsafe {
                let acc = Self::dot(acc, w[0], Self::pair_splat(*x));
                Self::dot(acc, w[1], Self::pair_splat(*x.add(1)))
            }
        }
        #[inline(always)]
        unsafe fn close(acc: Self::A) -> Self::I {
            acc
        }
        #[inline(always)]
        unsafe fn round_quads(to: *mut [i32; 2], apart: usize, v: Self::F) -> Self::I {
            unsafe {
                let mut pairs = [0i32; 8];
                let q = Self::round_pairs(pairs.as_mut_ptr(), v);
                crosswise(&pairs, to, apart);
                q
            }
        }
        #[inline(always)]
        unsafe fn to_f32(v: Self::I) -> Self::F {
            unsafe { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
        }
        #[inline(always)]
        unsafe fn abs(v: Self::F) -> Self::F {
            unsafe { both(v, v, |x, _| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)) }
        }
        #[inline(always)]
        unsafe fn round_pairs(p: *mut i32, v: Self::F) -> Self::I {
            unsafe {
                let magic = _mm256_set1_ps(MAGIC);
                let one = |v| {
                    let bits = _mm256_castps_si256(_mm256_add_ps(v, magic));
                    _mm256_sub_epi32(bits, _mm256_castps_si256(magic))
                };
                let q = (one(v.0), one(v.1));
                let mask = _mm256_set1_epi32(0xffff);
                let low = (_mm256_and_si256(q.0, mask), _mm256_and_si256(q.1, mask));
                // Packing works in halves: 0 2 1 3 puts them in order.
                let packed = _mm256_packus_epi32(low.0, low.1);
                _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
                q
            }
        }
        #[inline(always)]
        unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
            unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn isum(v: Self::I) -> i32 {
            let mut t = [0i32; 8];
            unsafe { _mm256_storeu_si256(t.as_mut_ptr().cast(), _mm256_add_epi32(v.0, v.1)) };
            t.into_iter().fold(0, i32::wrapping_add)
        }
        #[inline(always)]
        unsafe fn hmax(v: Self::F) -> f32 {
            let mut t = [0f32; 8];
            unsafe { _mm256_storeu_ps(t.as_mut_ptr(), _mm256_max_ps(v.0, v.1)) };
            t.into_iter().fold(f32::NEG_INFINITY, f32::max)
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            unsafe {
                (
                    _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
                )
            }
        }
        #[inline(always)]
        unsafe fn round_f16(v: Self::F) -> Self::F {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            unsafe {
                (
                    _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST>(v.0)),
                    _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST>(v.1)),
                )
            }
        }
    }
}

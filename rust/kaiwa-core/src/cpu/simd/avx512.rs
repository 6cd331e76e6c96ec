//! AVX-512: one register is one vector.

use std::arch::x86_64::*;

use super::{MAGIC, Simd, crosswise};

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

//! AVX2 with fused multiply-add and F16C: two registers are one vector.

use std::arch::x86_64::*;

use super::{MAGIC, Simd, crosswise};

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

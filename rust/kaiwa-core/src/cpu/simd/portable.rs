//! Plain arrays, for every processor.

use super::{MAGIC, Simd, crosswise};

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

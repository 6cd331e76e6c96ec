//! Products with weights that are floats (f32 or bf16).

use super::job::{Job, finish_row, load_part};
use crate::cpu::isa::kernel;
use crate::cpu::pack::{Packed, Taps, WeightBits};
use crate::cpu::simd::Simd;

kernel! {
    /// The rectangle of panels and rows that one task computes.
    pub(super) fn panels_times_rows = panels_body(job: &Job<'_>, panels: (usize, usize), rows: (usize, usize))
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

kernel! {
    /// Rows of a matrix with at most four outputs: dot products along the inputs.
    pub(super) fn thin = thin_body(job: &Job<'_>, rows: (usize, usize))
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

//! How a stored key or value element is written, and how queries and weights are multiplied with
//! a block of them. Floats are here, int8 in `int8.rs`.

use half::bf16;

use crate::cpu::simd::Simd;

/// Bytes between what is read and what the memory is asked for, if a head's run is so long. The
/// processor's own prefetching stops at the end of a run; without this it reads half as fast.
const AHEAD: usize = 12 << 10;

/// Where the memory is asked for what comes next: [`AHEAD`] bytes on in the run, then in the next.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    run: *const u8,
    next: *const u8,
    end: usize,
    by: usize,
}

impl Ahead {
    pub(super) fn new(run: *const u8, next: *const u8, end: usize) -> Self {
        let by = AHEAD.min(end);
        Self { run, next, end, by }
    }

    /// Asks for what `count` bytes at `at` lie ahead of.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(self, at: *const u8, count: usize) {
        let at = at as usize - self.run as usize + self.by;
        let p = match at < self.end {
            true => self.run.wrapping_add(at),
            false => self.next.wrapping_add(at - self.end),
        };
        for line in 0..count.div_ceil(64) {
            S::prefetch_far(p.wrapping_add(64 * line));
        }
    }
}

/// A rotated query: floats, and with int8 integers.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) floats: &'a [f32],
    pub(super) pairs: &'a [i32],
}

/// A stored key or value element.
pub(super) trait Element: Copy {
    /// True if there is a scale per position, and rows lie in twos.
    const SCALED: bool;
    /// Writes the key at position `at` of a block of `B`, each element the nearest there is;
    /// `inverse` is one over the scale.
    ///
    /// One store at a time: the scatter that the compiler would make of it is far slower, hence the
    /// volatile writes.
    unsafe fn put_key<S: Simd, const B: usize>(x: &[f32], inverse: f32, to: *mut Self, at: usize);
    /// Writes the value at position `at`; rows are `width` apart.
    unsafe fn put_value<S: Simd>(x: &[f32], inverse: f32, to: *mut Self, at: usize, width: usize);
    /// Products of the query with the keys of the first `V` vectors of a block of `B`.
    unsafe fn scores<S: Simd, const B: usize, const V: usize>(
        query: Query<'_>,
        keys: *const Self,
        ahead: Ahead,
    ) -> [S::F; V];
    /// `sums = sums * fade + sum of p[i] * value[i]` for `N` vectors of dimensions; `values` points
    /// to the first of them. `pairs` is `p` as integers, of which one step is `step`.
    unsafe fn weigh<S: Simd, const N: usize>(
        p: &[f32],
        pairs: (&[i32], f32),
        values: *const Self,
        width: usize,
        fade: f32,
        sums: *mut f32,
        ahead: Ahead,
    );
}

/// Elements that widen to a float each.
macro_rules! wide_element {
    ($element:ty, $load:ident, $narrow:expr) => {
        const SCALED: bool = false;

        #[inline(always)]
        unsafe fn put_key<S: Simd, const B: usize>(
            x: &[f32],
            _: f32,
            to: *mut $element,
            at: usize,
        ) {
            for (d, v) in x.iter().enumerate() {
                // SAFETY: the caller promises room for all of `x`.
                unsafe { to.add(d * B + at).write_volatile($narrow(*v)) };
            }
        }

        #[inline(always)]
        unsafe fn put_value<S: Simd>(
            x: &[f32],
            _: f32,
            to: *mut $element,
            at: usize,
            width: usize,
        ) {
            for (d, v) in x.iter().enumerate() {
                // SAFETY: the caller promises room for all of `x`.
                unsafe { to.add(at * width + d).write($narrow(*v)) };
            }
        }

        #[inline(always)]
        unsafe fn scores<S: Simd, const B: usize, const V: usize>(
            query: Query<'_>,
            keys: *const $element,
            ahead: Ahead,
        ) -> [S::F; V] {
            // SAFETY: the caller promises a block of keys of as many dimensions as the query has.
            unsafe {
                if V == 1 {
                    // Four sums over the dimensions, to hide the latency of a multiply-add.
                    let mut parts = [S::splat(0.0); 4];
                    let (whole, rest) = query.floats.as_chunks::<4>();
                    for (d, q) in whole.iter().enumerate() {
                        for ((i, q), part) in q.iter().enumerate().zip(&mut parts) {
                            let key = S::$load(keys.add((4 * d + i) * B));
                            *part = S::fma(S::splat(*q), key, *part);
                        }
                    }
                    for ((i, q), part) in rest.iter().enumerate().zip(&mut parts) {
                        let key = S::$load(keys.add((4 * whole.len() + i) * B));
                        *part = S::fma(S::splat(*q), key, *part);
                    }
                    let sum = S::add(S::add(parts[0], parts[1]), S::add(parts[2], parts[3]));
                    return [sum; V];
                }
                let mut acc = [S::splat(0.0); V];
                for (d, q) in query.floats.iter().enumerate() {
                    let row = keys.add(d * B);
                    ahead.fetch::<S>(row.cast(), B * size_of::<$element>());
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(S::splat(*q), S::$load(row.add(v * 16)), *acc);
                    }
                }
                acc
            }
        }

        #[inline(always)]
        unsafe fn weigh<S: Simd, const N: usize>(
            p: &[f32],
            _: (&[i32], f32),
            values: *const $element,
            width: usize,
            fade: f32,
            sums: *mut f32,
            ahead: Ahead,
        ) {
            // SAFETY: the caller promises a row of values for each of `p`, and `N` vectors of sums.
            unsafe {
                let mut acc = [S::splat(0.0); N];
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::mul(S::load(sums.add(v * 16)), S::splat(fade));
                }
                for (i, p) in p.iter().enumerate() {
                    let row = values.add(i * width);
                    ahead.fetch::<S>(row.cast(), 16 * N * size_of::<$element>());
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(S::splat(*p), S::$load(row.add(v * 16)), *acc);
                    }
                }
                for (v, acc) in acc.iter().enumerate() {
                    S::store(sums.add(v * 16), *acc);
                }
            }
        }
    };
}

impl Element for f32 {
    wide_element!(f32, load, |v: f32| v);
}

impl Element for u16 {
    wide_element!(u16, load_bf16, |v: f32| bf16::from_f32(v).to_bits());
}

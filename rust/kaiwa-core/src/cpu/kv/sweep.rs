//! One forward sweep over the keys and values of some heads: block after block, in a block head
//! after head, keys and values at once.
//!
//! Reading is what attention costs, so everything is read once. The softmax is kept up to date as
//! the largest score grows: every head has its sums so far, and a new largest score scales them
//! down. Sums run over ring indices in order, so results depend on positions only.

use super::element::{Ahead, Element, Query};
use super::int8::{round, scale_of, step_of};
use super::store::{BLOCK, KvLayout, SMALL};
use crate::cpu::arena::Region;
use crate::cpu::ops::exp;
use crate::cpu::simd::Simd;

/// What a task keeps for each query head of its own.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rotated and scaled.
    pub(super) query: Vec<f32>,
    /// With int8: the same as pairs of 16-bit integers.
    pub(super) pairs: Vec<i32>,
    /// Weighted values so far.
    pub(super) sums: Vec<f32>,
    pub(super) soft: Vec<Soft>,
}

/// A softmax so far.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Soft {
    /// Sums of the weights, lane by lane.
    total: [f32; 16],
    /// Largest score.
    top: f32,
    /// Value of one step of the integers in the query.
    step: f32,
}

impl Default for Soft {
    fn default() -> Self {
        Self {
            total: [0.0; 16],
            top: f32::NEG_INFINITY,
            step: 1.0,
        }
    }
}

/// Neighbouring key/value heads of one slot: what a task works on.
pub(super) struct Heads<'a> {
    pub(super) layout: KvLayout,
    pub(super) layer: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) pos: u64,
    pub(super) rope: &'a [f32],
    /// The slot's row.
    pub(super) qkv: &'a [f32],
    pub(super) blocks: &'a [Region],
}

impl Heads<'_> {
    /// The run of this task's head `h` in a block. No other task of a step looks at it, and the
    /// slots are borrowed mutably for the step.
    #[inline(always)]
    fn run(&self, block: usize, h: usize) -> *mut u8 {
        let run = self.layer * self.layout.heads + self.first + h;
        // SAFETY: runs lie inside a block.
        unsafe {
            self.blocks[block]
                .base()
                .add(run * self.layout.offsets()[3])
        }
    }

    /// Ring indices `start..end` that are out of sight: what was never written, and what has left
    /// the window (in the ring, the oldest come right after the newest).
    fn hidden(&self) -> [(usize, usize); 3] {
        let capacity = self.layout.capacity();
        let held = (self.pos + 1).min(capacity as u64) as usize;
        let stale = held - held.min(self.layout.context);
        let first = match self.pos < capacity as u64 {
            true => 0,
            false => ((self.pos + 1) % capacity as u64) as usize,
        };
        let end = first + stale;
        [
            (held, capacity),
            (first, end.min(capacity)),
            (0, end.saturating_sub(capacity)),
        ]
    }
}

#[inline(always)]
fn rotate(x: &[f32], rope: &[f32], interleaved: bool, scale: f32, out: &mut [f32]) {
    if rope.is_empty() {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
        return;
    }
    let half = x.len() / 2;
    for i in 0..half {
        let (a, b) = match interleaved {
            true => (2 * i, 2 * i + 1),
            false => (i, i + half),
        };
        let (cos, sin) = (rope[2 * i], rope[2 * i + 1]);
        out[a] = (x[a] * cos - x[b] * sin) * scale;
        out[b] = (x[a] * sin + x[b] * cos) * scale;
    }
}

#[inline(always)]
pub(super) unsafe fn heads_of<S: Simd, E: Element>(
    heads: &Heads<'_>,
    scratch: &mut Scratch,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match heads.layout.block() {
            SMALL => heads_body::<S, E, SMALL, 1>(heads, scratch, out),
            _ => heads_body::<S, E, BLOCK, 4>(heads, scratch, out),
        }
    }
}

/// `V` is the vectors of a block of `B`.
#[inline(always)]
unsafe fn heads_body<S: Simd, E: Element, const B: usize, const V: usize>(
    heads: &Heads<'_>,
    scratch: &mut Scratch,
    out: *mut f32,
) {
    let layout = &heads.layout;
    let (hd, repeat, vw) = (layout.head_dim, layout.repeat, layout.value_width());
    let capacity = layout.capacity();
    let held = (heads.pos + 1).min(capacity as u64) as usize;
    let blocks = held.div_ceil(B);
    let hidden = heads.hidden();
    // SAFETY: every block up to the newest position exists; offsets are the layout's; `scratch`
    // fits the task's query heads, and `out` holds `head_dim` floats for each.
    unsafe {
        for h in 0..heads.count {
            store_new::<S, E, B>(heads, h, &mut scratch.query[..hd]);
        }
        for h in 0..heads.count * repeat {
            let x = &heads.qkv[(heads.first * repeat + h) * hd..][..hd];
            let query = &mut scratch.query[h * hd..][..hd];
            let scale = 1.0 / (hd as f32).sqrt();
            rotate(x, heads.rope, layout.interleaved, scale, query);
            if E::SCALED {
                // As fine as the sum of a head's products allows.
                let steps = (i32::MAX as f32 / (128 * hd) as f32).floor().min(32767.0);
                let (step, inverse) = scale_of(query, steps);
                scratch.soft[h].step = step;
                let pairs = &mut scratch.pairs[h * hd / 2..][..hd / 2];
                for (x, to) in query.chunks(16).zip(pairs.chunks_mut(8)) {
                    let mut pairs = [0i32; 8];
                    round::<S>(x, inverse, &mut pairs);
                    to.copy_from_slice(&pairs[..to.len()]);
                }
            }
        }
        for b in 0..blocks {
            let part = Part {
                count: (held - b * B).min(B),
                hidden: hidden.map(|(start, end)| {
                    let inside = |at: usize| at.saturating_sub(b * B).min(B);
                    (inside(start), inside(end))
                }),
            };
            for h in 0..heads.count {
                let run = heads.run(b, h);
                let next = match (h + 1 < heads.count, b + 1 < blocks) {
                    (true, _) => heads.run(b, h + 1),
                    (false, true) => heads.run(b + 1, 0),
                    // There is none: what was just read is in the cache.
                    (false, false) => run,
                };
                for r in 0..repeat {
                    let at = h * repeat + r;
                    let query = Query {
                        floats: &scratch.query[at * hd..][..hd],
                        pairs: &scratch.pairs[at * hd / 2..][..hd / 2],
                    };
                    let sums = &mut scratch.sums[at * vw..][..vw];
                    let soft = &mut scratch.soft[at];
                    block::<S, E, B, V>(layout, &part, run, next, query, soft, sums);
                }
            }
        }
        for (h, soft) in scratch.soft.iter().enumerate() {
            let by = 1.0 / S::sum(S::load(soft.total.as_ptr()));
            for (d, sum) in scratch.sums[h * vw..][..hd].iter().enumerate() {
                *out.add(h * hd + d) = sum * by;
            }
        }
    }
}

/// Puts the new key and value of head `h` into their block; `room` holds a head's vector.
#[inline(always)]
unsafe fn store_new<S: Simd, E: Element, const B: usize>(
    heads: &Heads<'_>,
    h: usize,
    room: &mut [f32],
) {
    let layout = &heads.layout;
    let (hd, vw) = (layout.head_dim, layout.value_width());
    let [value_scales, keys, values, _] = layout.offsets();
    let now = (heads.pos % layout.capacity() as u64) as usize;
    let (run, at) = (heads.run(now / B, h), now % B);
    let row = |part: usize| {
        let head = layout.heads * (layout.repeat + part) + heads.first + h;
        &heads.qkv[head * hd..][..hd]
    };
    let scale = |x: &[f32]| match E::SCALED {
        true => scale_of(x, 127.0),
        false => (1.0, 1.0),
    };
    rotate(row(0), heads.rope, layout.interleaved, 1.0, room);
    let value = row(1);
    let ((key_scale, key_inverse), (value_scale, value_inverse)) = (scale(room), scale(value));
    // SAFETY: the block of the newest position exists; places are within its keys and values.
    unsafe {
        E::put_key::<S, B>(room, key_inverse, run.add(keys).cast(), at);
        E::put_value::<S>(value, value_inverse, run.add(values).cast(), at, vw);
        if E::SCALED {
            run.cast::<f32>().add(at).write(key_scale);
            run.add(value_scales)
                .cast::<f32>()
                .add(at)
                .write(value_scale);
        }
    }
}

/// What a block has to show.
struct Part {
    /// Positions written.
    count: usize,
    /// Positions `start..end` that are out of sight, or nothing.
    hidden: [(usize, usize); 3],
}

/// One query over the keys and values of one block.
#[inline(always)]
unsafe fn block<S: Simd, E: Element, const B: usize, const V: usize>(
    layout: &KvLayout,
    part: &Part,
    run: *const u8,
    next: *const u8,
    query: Query<'_>,
    soft: &mut Soft,
    sums: &mut [f32],
) {
    let [value_scales, keys, values, end] = layout.offsets();
    let ahead = Ahead::new(run, next, end);
    // SAFETY: `run` is a head's run in a block; `V` vectors are its positions.
    unsafe {
        let mut p = [S::splat(f32::NEG_INFINITY); V];
        let used = part.count.div_ceil(16);
        if used == 1 {
            p[0] = E::scores::<S, B, 1>(query, run.add(keys).cast(), ahead)[0];
        } else {
            p = E::scores::<S, B, V>(query, run.add(keys).cast(), ahead);
        }
        if E::SCALED {
            for (v, p) in p.iter_mut().enumerate().take(used) {
                let scale = S::load(run.cast::<f32>().add(v * 16));
                *p = S::mul(*p, S::mul(scale, S::splat(soft.step)));
            }
        }
        let masked = part.hidden.iter().any(|(start, end)| start < end);
        if masked {
            hide::<S, V>(part, &mut p, f32::NEG_INFINITY);
        }
        let mut top = p[0];
        for p in &p[1..used] {
            top = S::max(top, *p);
        }
        let top = S::hmax(top).max(soft.top);
        let fade = fade::<S>(soft.top - top);
        soft.top = top;
        for p in &mut p[..used] {
            *p = exp::<S>(S::sub(*p, S::splat(top)));
        }
        if masked {
            // `exp` never gives zero; what is out of sight must weigh exactly nothing.
            hide::<S, V>(part, &mut p, 0.0);
        }
        let mut total = S::mul(S::load(soft.total.as_ptr()), S::splat(fade));
        for p in &p[..used] {
            total = S::add(total, *p);
        }
        S::store(soft.total.as_mut_ptr(), total);
        let mut weights = [0f32; B];
        let (mut pairs, mut step) = ([[0i32; 8]; V], 0.0);
        if E::SCALED {
            let mut top = S::splat(0.0);
            for (v, p) in p.iter_mut().enumerate().take(used) {
                let scale = S::load(run.add(value_scales).cast::<f32>().add(v * 16));
                *p = S::mul(*p, scale);
                top = S::max(*p, top);
            }
            let inverse;
            (step, inverse) = step_of(S::hmax(top), 32767.0);
            for (p, pairs) in p.iter().zip(&mut pairs).take(used) {
                S::round_pairs(pairs.as_mut_ptr(), S::mul(*p, S::splat(inverse)));
            }
        } else {
            for (v, p) in p.iter().enumerate().take(used) {
                S::store(weights.as_mut_ptr().add(v * 16), *p);
            }
        }
        let vw = layout.value_width();
        let weights = &weights[..part.count];
        let pairs = (&pairs.as_flattened()[..part.count.div_ceil(2)], step);
        let each = if E::SCALED { 2 } else { 1 };
        let mut start = 0;
        while start < vw {
            let values = run.add(values).cast::<E>().add(start * each);
            let to = sums.as_mut_ptr().add(start);
            // Eight vectors are a head of 128: as many sums as hide the latency of a multiply-add.
            start += match (vw - start) / 16 {
                8.. => {
                    E::weigh::<S, 8>(weights, pairs, values, vw, fade, to, ahead);
                    128
                }
                4.. => {
                    E::weigh::<S, 4>(weights, pairs, values, vw, fade, to, ahead);
                    64
                }
                _ => {
                    E::weigh::<S, 1>(weights, pairs, values, vw, fade, to, ahead);
                    16
                }
            };
        }
    }
}

/// What earlier sums count for once the largest score is `-x` higher: `e^x`, and nothing before the
/// first score.
#[inline(always)]
unsafe fn fade<S: Simd>(x: f32) -> f32 {
    if x == 0.0 {
        return 1.0;
    }
    if x < -87.0 {
        return 0.0;
    }
    let mut lanes = [0f32; 16];
    // SAFETY: `lanes` is a vector.
    unsafe { S::store(lanes.as_mut_ptr(), exp::<S>(S::splat(x))) };
    lanes[0]
}

/// Sets what is out of sight to `value`.
#[inline(always)]
unsafe fn hide<S: Simd, const V: usize>(part: &Part, p: &mut [S::F; V], value: f32) {
    // SAFETY: the array is a vector.
    unsafe {
        let lanes = S::load(LANES.as_ptr());
        for (start, end) in part.hidden {
            if start >= end {
                continue;
            }
            for (v, p) in p.iter_mut().enumerate() {
                let [start, end] = [start, end].map(|at| S::splat(at as f32 - 16.0 * v as f32));
                let inside = S::select_lt(lanes, end, S::splat(value), *p);
                *p = S::select_lt(lanes, start, *p, inside);
            }
        }
    }
}

/// The numbers of a vector's lanes.
const LANES: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

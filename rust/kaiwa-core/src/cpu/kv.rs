//! Attention of one new step per slot over a ring of keys and values that is allocated in blocks
//! (docs/spec/moshi.md 3.4 to 3.6).
//!
//! A block holds [`BLOCK`] steps of every layer of one slot ([`SMALL`] if the window is no larger),
//! so a short conversation takes little memory and a long one no more than its window. Inside a
//! block each layer and key/value head has one run of bytes: with int8 one f32 scale per key and per
//! value; keys transposed, `[head_dim, steps]`, so that lanes are positions; values `[steps,
//! head_dim]`, so that lanes are dimensions. With int8 the rows of both are side by side in twos, as
//! the integer dot product takes them. Position `p` lives at ring index `p % capacity`.
//!
//! Reading is what attention costs, so it is one forward sweep: block after block, in a block head
//! after head, keys and values at once. The softmax is kept up to date as the largest score grows
//! (every head has its sums so far, and a new largest score scales them down). Sums run over ring
//! indices in order, so results depend on positions only.

use std::cell::RefCell;

use half::bf16;

use super::arena::{Arena, Region};
use super::isa::{Isa, integer_kernel, kernel};
use super::ops::exp;
use super::pool::{self, Shared};
use super::simd::Simd;
use crate::formats::KvFormat;

/// Multiply-adds of a step below which other threads are not asked.
const TASK_WORK: usize = 1 << 15;

/// Steps of a block: four vectors of scores.
pub(crate) const BLOCK: usize = 64;

/// Steps of a block if the window fits: one vector.
const SMALL: usize = 16;

/// Heads that a task takes at most, if enough other tasks are left: they lie side by side.
const TASK_HEADS: usize = 8;

/// Tasks wanted before one takes several heads.
const TASKS: usize = 16;

/// Bytes between what is read and what the memory is asked for, if a head's run is so long. The
/// processor's own foresight ends with a run; without this it reads half as fast.
const AHEAD: usize = 12 << 10;

/// Sizes of a model's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvLayout {
    pub layers: usize,
    /// Key/value heads.
    pub heads: usize,
    /// Query heads per key/value head.
    pub repeat: usize,
    pub head_dim: usize,
    /// Keys that a step sees at most, itself included.
    pub context: usize,
    pub bits: KvFormat,
    /// Rotary pairs are neighbours; otherwise the two halves of a head.
    pub interleaved: bool,
}

impl KvLayout {
    fn element(&self) -> usize {
        self.bits.bytes()
    }

    /// Steps of a block.
    fn block(&self) -> usize {
        if self.context <= SMALL { SMALL } else { BLOCK }
    }

    /// Steps that the ring holds.
    pub(crate) fn capacity(&self) -> usize {
        self.context.next_multiple_of(self.block())
    }

    /// Values of a position in whole vectors.
    fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Byte offsets of value scales, keys, values, and the end of a head's run, which begins with
    /// the scales of the keys.
    fn offsets(&self) -> [usize; 4] {
        let each = if self.bits == KvFormat::Int8 {
            4 * self.block()
        } else {
            0
        };
        let values = 2 * each + self.head_dim * self.block() * self.element();
        let end = values + self.value_width() * self.block() * self.element();
        [each, 2 * each, values, end]
    }

    /// Bytes of a block: its steps of all layers of one slot.
    pub(crate) fn block_bytes(&self) -> usize {
        self.layers * self.heads * self.offsets()[3]
    }

    /// Floats of a row of queries, keys and values.
    fn qkv_width(&self) -> usize {
        self.heads * self.head_dim * (self.repeat + 2)
    }

    fn out_width(&self) -> usize {
        self.heads * self.head_dim * self.repeat
    }
}

/// Keys and values of one slot.
#[derive(Default)]
pub(crate) struct KvSlot {
    /// Steps so far.
    pub pos: u64,
    blocks: Vec<Region>,
}

/// Where blocks come from and go back to; one for all slots of a stream.
#[derive(Default)]
pub(crate) struct KvPool {
    arena: Arena,
    free: Vec<Region>,
}

impl KvSlot {
    /// Makes room for the next step.
    pub(crate) fn prepare(&mut self, layout: &KvLayout, pool: &mut KvPool) {
        let index = (self.pos % layout.capacity() as u64) as usize / layout.block();
        while self.blocks.len() <= index {
            let block = pool.free.pop();
            self.blocks
                .push(block.unwrap_or_else(|| pool.arena.take(layout.block_bytes())));
        }
    }

    /// Back to the beginning; the memory goes back to the pool.
    pub(crate) fn reset(&mut self, pool: &mut KvPool) {
        self.pos = 0;
        pool.free.append(&mut self.blocks);
    }

    /// Bytes of keys and values held now.
    pub(crate) fn bytes(&self, layout: &KvLayout) -> usize {
        self.blocks.len() * layout.block_bytes()
    }

    /// Jumps over `steps` positions as if keys and values of zeros had been stored there: for
    /// benchmarks of a full window.
    pub(crate) fn skip(&mut self, steps: usize, layout: &KvLayout, pool: &mut KvPool) {
        let held = self.blocks.len();
        for _ in 0..steps {
            self.prepare(layout, pool);
            self.pos += 1;
        }
        // Written, not only taken: untouched memory is one page of zeros that caches hold, and
        // reading it costs nothing.
        for block in &mut self.blocks[held..] {
            block.bytes_mut().fill(0);
        }
    }

    /// A copy that shares nothing, for tests' controls.
    #[cfg(test)]
    pub(crate) fn copy(&self, layout: &KvLayout, pool: &mut KvPool) -> Self {
        let mut copy = Self::default();
        for block in &self.blocks {
            let mut to = pool.arena.take(layout.block_bytes());
            to.bytes_mut().copy_from_slice(block.bytes());
            copy.blocks.push(to);
        }
        copy.pos = self.pos;
        copy
    }
}

/// One layer's attention for the active slots of a step.
pub(crate) struct KvAttention<'a> {
    pub layout: KvLayout,
    pub layer: usize,
    /// Queries of all heads, then keys, then values: one row a slot, not yet rotated.
    pub qkv: &'a [f32],
    /// Rotary cosines and sines of each slot: `[slots, head_dim]`, cos and sin in turn; or nothing
    /// where nothing is rotated.
    pub rope: &'a [f32],
    /// Result: `[slots, heads * repeat * head_dim]`.
    pub out: &'a mut [f32],
}

/// Stores the new keys and values (position `pos` of each slot) and attends. `prepare` has been
/// called for every slot; `pos` is moved on by the caller once all layers have run.
pub(crate) fn attend_step(isa: Isa, job: KvAttention<'_>, slots: &mut [&mut KvSlot]) {
    let KvAttention {
        layout,
        layer,
        qkv,
        rope,
        out,
    } = job;
    let (count, hd) = (slots.len(), layout.head_dim);
    let (width, out_width) = (layout.qkv_width(), layout.out_width());
    assert!(qkv.len() >= count * width && out.len() >= count * out_width);
    assert!(rope.is_empty() || rope.len() >= count * hd);
    assert!(hd.is_multiple_of(2) && layer < layout.layers);
    for slot in slots.iter() {
        let needed = (slot.pos + 1).min(layout.capacity() as u64) as usize;
        assert!(slot.blocks.len() * layout.block() >= needed);
    }
    let out = Shared::new(out);
    let slots = &*slots;
    // The new key costs about as much as sixteen old ones.
    let longest = slots.iter().map(|s| s.pos).max().unwrap_or(0).min(1 << 16) as usize + 16;
    let work = count * layout.heads * layout.repeat * hd * longest;
    let together = (count * layout.heads / TASKS).clamp(1, TASK_HEADS);
    let parts = layout.heads.div_ceil(together);
    pool::for_each_if(work > TASK_WORK, count * parts, |task| {
        let (slot, first) = (task / parts, task % parts * together);
        let heads = Heads {
            layout,
            layer,
            first,
            count: together.min(layout.heads - first),
            pos: slots[slot].pos,
            rope: rope.get(slot * hd..(slot + 1) * hd).unwrap_or(&[]),
            qkv: &qkv[slot * width..][..width],
            blocks: &slots[slot].blocks,
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let queries = heads.count * layout.repeat;
            scratch.query.resize(queries * hd, 0.0);
            scratch.pairs.resize(queries * hd / 2, 0);
            scratch.sums.resize(queries * layout.value_width(), 0.0);
            scratch.sums.fill(0.0);
            scratch.soft.clear();
            scratch.soft.resize(queries, Soft::default());
            // SAFETY: lengths were checked above; each task has heads of its own, both in its
            // slot's blocks and in the output; tasks of one thread do not nest.
            unsafe {
                let out = out.get().add(slot * out_width + first * layout.repeat * hd);
                match layout.bits {
                    KvFormat::F32 => heads_f32(isa, &heads, scratch, out),
                    KvFormat::Bf16 => heads_bf16(isa, &heads, scratch, out),
                    KvFormat::Int8 => heads_int8(isa, &heads, scratch, out),
                }
            }
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a task keeps for each query head of its own.
#[derive(Default)]
struct Scratch {
    /// Rotated and scaled.
    query: Vec<f32>,
    /// With int8: the same as pairs of 16-bit integers.
    pairs: Vec<i32>,
    /// Weighted values so far.
    sums: Vec<f32>,
    soft: Vec<Soft>,
}

/// A softmax so far.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Soft {
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
struct Heads<'a> {
    layout: KvLayout,
    layer: usize,
    first: usize,
    count: usize,
    pos: u64,
    rope: &'a [f32],
    /// The slot's row.
    qkv: &'a [f32],
    blocks: &'a [Region],
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

kernel! {
    /// Heads over f32 keys and values.
    fn heads_f32 = body_f32(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32)
}
kernel! {
    /// Heads over bf16 keys and values.
    fn heads_bf16 = body_bf16(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32)
}
integer_kernel! {
    /// Heads over int8 keys and values.
    fn heads_int8 = body_int8(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32)
}

#[inline(always)]
unsafe fn body_f32<S: Simd>(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { heads_of::<S, f32>(heads, scratch, out) }
}
#[inline(always)]
unsafe fn body_bf16<S: Simd>(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { heads_of::<S, u16>(heads, scratch, out) }
}
#[inline(always)]
unsafe fn body_int8<S: Simd>(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { heads_of::<S, i8>(heads, scratch, out) }
}

/// Where the memory is asked for what comes next: [`AHEAD`] bytes on in the run, then in the next.
#[derive(Clone, Copy)]
struct Ahead {
    run: *const u8,
    next: *const u8,
    end: usize,
    by: usize,
}

impl Ahead {
    fn new(run: *const u8, next: *const u8, end: usize) -> Self {
        let by = AHEAD.min(end);
        Self { run, next, end, by }
    }

    /// Asks for what `count` bytes at `at` lie ahead of.
    #[inline(always)]
    fn fetch<S: Simd>(self, at: *const u8, count: usize) {
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
struct Query<'a> {
    floats: &'a [f32],
    pairs: &'a [i32],
}

/// A stored key or value element.
trait Element: Copy {
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

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn put_key<S: Simd, const B: usize>(x: &[f32], inverse: f32, to: *mut i8, at: usize) {
        for (part, x) in x.chunks(16).enumerate() {
            let mut pairs = [0i32; 8];
            // SAFETY: the caller promises room for all of `x`; a pair of dimensions is two bytes
            // side by side.
            unsafe {
                round::<S>(x, inverse, &mut pairs);
                for (i, pair) in pairs[..x.len() / 2].iter().enumerate() {
                    let bytes = [*pair as u8, (*pair >> 16) as u8];
                    let to = to.cast::<[u8; 2]>().add((part * 8 + i) * B + at);
                    to.write_volatile(bytes);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn put_value<S: Simd>(x: &[f32], inverse: f32, to: *mut i8, at: usize, width: usize) {
        for (part, x) in x.chunks(16).enumerate() {
            let mut pairs = [0i32; 8];
            // SAFETY: the caller promises room for all of `x`; two positions lie side by side.
            unsafe {
                round::<S>(x, inverse, &mut pairs);
                let to = to.add((at / 2 * width + part * 16) * 2 + at % 2);
                for d in 0..x.len() {
                    let v = (pairs[d / 2] >> (16 * (d % 2))) as i8;
                    to.add(2 * d).write_volatile(v);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const B: usize, const V: usize>(
        query: Query<'_>,
        keys: *const i8,
        ahead: Ahead,
    ) -> [S::F; V] {
        // SAFETY: the caller promises a block of keys of as many dimensions as the query has.
        unsafe {
            let mut acc = [S::isplat(0); V];
            for (d, q) in query.pairs.iter().enumerate() {
                let row = keys.add(2 * d * B);
                ahead.fetch::<S>(row.cast(), 2 * B);
                for (v, acc) in acc.iter_mut().enumerate() {
                    let key = S::load_i8_pairs(row.add(v * 32));
                    *acc = S::dot(*acc, key, S::pair_splat(*q));
                }
            }
            let mut out = [S::splat(0.0); V];
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = S::to_f32(acc);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, const N: usize>(
        _: &[f32],
        (pairs, step): (&[i32], f32),
        values: *const i8,
        width: usize,
        fade: f32,
        sums: *mut f32,
        ahead: Ahead,
    ) {
        // SAFETY: the caller promises two rows of values for each of `pairs`, and `N` vectors of
        // sums.
        unsafe {
            let mut acc = [S::isplat(0); N];
            for (i, p) in pairs.iter().enumerate() {
                let row = values.add(2 * i * width);
                ahead.fetch::<S>(row.cast(), 32 * N);
                for (v, acc) in acc.iter_mut().enumerate() {
                    let value = S::load_i8_pairs(row.add(v * 32));
                    *acc = S::dot(*acc, value, S::pair_splat(*p));
                }
            }
            for (v, acc) in acc.into_iter().enumerate() {
                let sum = S::mul(S::load(sums.add(v * 16)), S::splat(fade));
                let sum = S::fma(S::to_f32(acc), S::splat(step), sum);
                S::store(sums.add(v * 16), sum);
            }
        }
    }
}

/// Nearest integers of at most sixteen values times `by`, as pairs.
#[inline(always)]
unsafe fn round<S: Simd>(x: &[f32], by: f32, pairs: &mut [i32; 8]) {
    let mut lanes = [0f32; 16];
    lanes[..x.len()].copy_from_slice(x);
    // SAFETY: the arrays are a vector and its pairs.
    unsafe {
        S::round_pairs(
            pairs.as_mut_ptr(),
            S::mul(S::load(lanes.as_ptr()), S::splat(by)),
        )
    };
}

/// Rotates a head's vector: `rope` holds cos and sin of each pair, or nothing.
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

/// Largest magnitude over `steps`, and one over it.
#[inline(always)]
fn scale_of(x: &[f32], steps: f32) -> (f32, f32) {
    step_of(x.iter().fold(0f32, |a, v| a.max(v.abs())), steps)
}

/// `largest` over `steps`, and one over it; zeros for what is too small to invert.
#[inline(always)]
fn step_of(largest: f32, steps: f32) -> (f32, f32) {
    let scale = largest / steps;
    if scale >= f32::MIN_POSITIVE {
        (scale, 1.0 / scale)
    } else {
        (0.0, 0.0)
    }
}

#[inline(always)]
unsafe fn heads_of<S: Simd, E: Element>(heads: &Heads<'_>, scratch: &mut Scratch, out: *mut f32) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "kv_tests.rs"]
mod tests;

//! Attention of one new step per slot over a ring of keys and values that is allocated in blocks
//! (spec moshi-lm.md 3.4 to 3.6).
//!
//! A block holds [`BLOCK`] steps of every layer of one slot ([`SMALL`] if the window is no larger),
//! so a short conversation takes little memory and a long one no more than its window. Inside a
//! block each layer and key/value head has one run of bytes: keys transposed, `[head_dim, steps]`,
//! so that lanes are positions; values `[steps, head_dim]`, so that lanes are dimensions; with int8 one f32 scale per key and
//! per value. Position `p` lives at ring index `p % capacity`. Sums run over ring indices in
//! order, so results depend on positions only.

use std::cell::RefCell;

use half::bf16;

use super::arena::{Arena, Region};
use super::isa::{Isa, kernel};
use super::ops::exp;
use super::pool::{self, Shared};
use super::simd::Simd;

/// Multiply-adds of a step below which other threads are not asked.
const TASK_WORK: usize = 1 << 15;

/// Steps of a block: four vectors of scores.
pub(crate) const BLOCK: usize = 64;

/// Steps of a block if the window fits: one vector.
const SMALL: usize = 16;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvBits {
    F32,
    Bf16,
    /// One scale per position and head.
    Int8,
}

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
    pub bits: KvBits,
    /// Rotary pairs are neighbours; otherwise the two halves of a head.
    pub interleaved: bool,
}

impl KvLayout {
    fn element(&self) -> usize {
        match self.bits {
            KvBits::F32 => 4,
            KvBits::Bf16 => 2,
            KvBits::Int8 => 1,
        }
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

    /// Byte offsets of values, key scales, value scales, and the end of a head's run.
    fn offsets(&self) -> [usize; 4] {
        let values = self.head_dim * self.block() * self.element();
        let scales = values + self.value_width() * self.block() * self.element();
        let each = if self.bits == KvBits::Int8 {
            4 * self.block()
        } else {
            0
        };
        [values, scales, scales + each, scales + 2 * each]
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
    /// Rotary cosines and sines of each slot: `[slots, head_dim]`, cos and sin in turn.
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
    assert!(rope.len() >= count * hd && hd.is_multiple_of(2) && layer < layout.layers);
    let head_bytes = layout.offsets()[3];
    for slot in slots.iter() {
        let needed = (slot.pos + 1).min(layout.capacity() as u64) as usize;
        assert!(slot.blocks.len() * layout.block() >= needed);
    }
    let out = Shared::new(out);
    let slots = &*slots;
    // The new key costs about as much as sixteen old ones.
    let longest = slots.iter().map(|s| s.pos).max().unwrap_or(0).min(1 << 16) as usize + 16;
    let work = count * layout.heads * layout.repeat * hd * longest;
    pool::for_each_if(work > TASK_WORK, count * layout.heads, |task| {
        let (slot, head) = (task / layout.heads, task % layout.heads);
        let one = Head {
            layout,
            pos: slots[slot].pos,
            rope: &rope[slot * hd..][..hd],
            query: &qkv[slot * width + head * layout.repeat * hd..][..layout.repeat * hd],
            key: &qkv[slot * width + out_width + head * hd..][..hd],
            value: &qkv[slot * width + out_width + (layout.heads + head) * hd..][..hd],
            blocks: &slots[slot].blocks,
            offset: (layer * layout.heads + head) * head_bytes,
        };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(layout.capacity() + 2 * layout.value_width(), 0.0);
            // SAFETY: lengths were checked above; each task has a head of its own, both in its
            // slot's blocks and in the output; tasks of one thread do not nest.
            unsafe {
                let out = out.get().add(slot * out_width + head * layout.repeat * hd);
                match layout.bits {
                    KvBits::F32 => head_f32(isa, &one, scratch, out),
                    KvBits::Bf16 => head_bf16(isa, &one, scratch, out),
                    KvBits::Int8 => head_int8(isa, &one, scratch, out),
                }
            }
        });
    });
}

thread_local! {
    /// Scores of a head, then its rotated query.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What one key/value head of one slot works on.
struct Head<'a> {
    layout: KvLayout,
    pos: u64,
    rope: &'a [f32],
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    blocks: &'a [Region],
    /// Of this layer and head in every block.
    offset: usize,
}

impl Head<'_> {
    /// This layer's and head's run in a block. No other task of a step looks at it, and the slots
    /// are borrowed mutably for the step.
    #[inline(always)]
    fn run(&self, block: usize) -> *mut u8 {
        // SAFETY: offsets lie inside a block.
        unsafe { self.blocks[block].base().add(self.offset) }
    }
}

kernel! {
    /// One head over f32 keys and values.
    fn head_f32 = body_f32(head: &Head<'_>, scratch: &mut [f32], out: *mut f32)
}
kernel! {
    /// One head over bf16 keys and values.
    fn head_bf16 = body_bf16(head: &Head<'_>, scratch: &mut [f32], out: *mut f32)
}
kernel! {
    /// One head over int8 keys and values.
    fn head_int8 = body_int8(head: &Head<'_>, scratch: &mut [f32], out: *mut f32)
}

#[inline(always)]
unsafe fn body_f32<S: Simd>(head: &Head<'_>, scratch: &mut [f32], out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { head_of::<S, f32>(head, scratch, out) }
}
#[inline(always)]
unsafe fn body_bf16<S: Simd>(head: &Head<'_>, scratch: &mut [f32], out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { head_of::<S, u16>(head, scratch, out) }
}
#[inline(always)]
unsafe fn body_int8<S: Simd>(head: &Head<'_>, scratch: &mut [f32], out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { head_of::<S, i8>(head, scratch, out) }
}

/// A stored key or value element.
trait Element: Copy {
    /// True if there is a scale per position.
    const SCALED: bool;
    /// Sixteen elements from `p`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// Nearest elements of `x`, `stride` apart; `inverse` is one over the scale.
    ///
    /// One element at a time where they are apart: the scatter that the compiler would make of it
    /// is far slower, hence the volatile writes.
    unsafe fn put<S: Simd>(x: &[f32], inverse: f32, to: *mut Self, stride: usize);
}
impl Element for f32 {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        // SAFETY: the caller promises sixteen elements.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn put<S: Simd>(x: &[f32], _: f32, to: *mut f32, stride: usize) {
        // SAFETY: the caller promises room for all of `x`.
        unsafe {
            if stride == 1 {
                to.copy_from_nonoverlapping(x.as_ptr(), x.len());
                return;
            }
            for (d, v) in x.iter().enumerate() {
                to.add(d * stride).write_volatile(*v);
            }
        }
    }
}
impl Element for u16 {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::F {
        // SAFETY: the caller promises sixteen elements.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn put<S: Simd>(x: &[f32], _: f32, to: *mut u16, stride: usize) {
        for (d, v) in x.iter().enumerate() {
            let v = bf16::from_f32(*v).to_bits();
            // SAFETY: the caller promises room for all of `x`.
            unsafe { to.add(d * stride).write_volatile(v) };
        }
    }
}
impl Element for i8 {
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const i8) -> S::F {
        // SAFETY: the caller promises sixteen elements.
        unsafe { S::load_i8(p) }
    }
    #[inline(always)]
    unsafe fn put<S: Simd>(x: &[f32], inverse: f32, to: *mut i8, stride: usize) {
        for (part, x) in x.chunks(16).enumerate() {
            let mut lanes = [0f32; 16];
            lanes[..x.len()].copy_from_slice(x);
            let mut pairs = [0i32; 8];
            // SAFETY: the arrays are a vector and its pairs; the caller promises room for all of
            // `x`.
            unsafe {
                let v = S::mul(S::load(lanes.as_ptr()), S::splat(inverse));
                S::round_pairs(pairs.as_mut_ptr(), v);
                for d in 0..x.len() {
                    let v = (pairs[d / 2] >> (16 * (d % 2))) as i8;
                    to.add((part * 16 + d) * stride).write_volatile(v);
                }
            }
        }
    }
}

/// Rotates a head's vector: `rope` holds cos and sin of each pair.
#[inline(always)]
fn rotate(x: &[f32], rope: &[f32], interleaved: bool, scale: f32, out: &mut [f32]) {
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

/// Largest magnitude over 127, and one over it.
#[inline(always)]
fn int8_scale(x: &[f32]) -> (f32, f32) {
    let scale = x.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
    if scale >= f32::MIN_POSITIVE {
        (scale, 1.0 / scale)
    } else {
        (0.0, 0.0)
    }
}

#[inline(always)]
unsafe fn head_of<S: Simd, E: Element>(head: &Head<'_>, scratch: &mut [f32], out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match head.layout.block() {
            SMALL => head_body::<S, E, SMALL>(head, scratch, out),
            _ => head_body::<S, E, BLOCK>(head, scratch, out),
        }
    }
}

#[inline(always)]
unsafe fn head_body<S: Simd, E: Element, const B: usize>(
    head: &Head<'_>,
    scratch: &mut [f32],
    out: *mut f32,
) {
    let layout = &head.layout;
    let (hd, vw, capacity) = (layout.head_dim, layout.value_width(), layout.capacity());
    let [values, key_scales, value_scales, _] = layout.offsets();
    let (scores, query) = scratch.split_at_mut(capacity);
    let query = &mut query[..hd];
    // SAFETY: every block up to the newest position exists; offsets are the layout's; `scores`
    // holds `capacity` floats, and `out` `repeat * head_dim`.
    unsafe {
        // The new key and value.
        let now = (head.pos % capacity as u64) as usize;
        let (run, at) = (head.run(now / B), now % B);
        rotate(head.key, head.rope, layout.interleaved, 1.0, query);
        let (scale, inverse) = if E::SCALED {
            int8_scale(query)
        } else {
            (1.0, 1.0)
        };
        E::put::<S>(query, inverse, run.cast::<E>().add(at), B);
        if E::SCALED {
            run.add(key_scales).cast::<f32>().add(at).write(scale);
        }
        let (scale, inverse) = if E::SCALED {
            int8_scale(head.value)
        } else {
            (1.0, 1.0)
        };
        let row = run.add(values).cast::<E>().add(at * vw);
        E::put::<S>(head.value, inverse, row, 1);
        if E::SCALED {
            run.add(value_scales).cast::<f32>().add(at).write(scale);
        }

        let held = (head.pos + 1).min(capacity as u64) as usize;
        let blocks = held.div_ceil(B);
        let scores = &mut scores[..blocks * B];
        for r in 0..layout.repeat {
            let scale = 1.0 / (hd as f32).sqrt();
            let q = &head.query[r * hd..][..hd];
            rotate(q, head.rope, layout.interleaved, scale, query);
            for (b, scores) in scores.chunks_exact_mut(B).enumerate() {
                let run = head.run(b);
                let keys = run.cast::<E>();
                // What is read a block's time from now: the next keys, or the first values.
                let next = match b + 1 < blocks {
                    true => head.run(b + 1).cast::<E>(),
                    false => head.run(0).wrapping_add(values).cast::<E>(),
                };
                let mut acc = [S::splat(0.0); BLOCK / 16];
                if held - b * B > 16 {
                    for (d, q) in query.iter().enumerate() {
                        fetch::<S, E>(next.wrapping_add(d * B), B);
                        let q = S::splat(*q);
                        for (v, acc) in acc.iter_mut().enumerate().take(B / 16) {
                            *acc = S::fma(q, E::load::<S>(keys.add(d * B + v * 16)), *acc);
                        }
                    }
                } else {
                    // One vector of positions: four sums over the dimensions instead.
                    let mut parts = [S::splat(0.0); 4];
                    let (whole, rest) = query.as_chunks::<4>();
                    for (d, four) in whole.iter().enumerate() {
                        for ((i, q), part) in four.iter().enumerate().zip(&mut parts) {
                            let key = E::load::<S>(keys.add((4 * d + i) * B));
                            *part = S::fma(S::splat(*q), key, *part);
                        }
                    }
                    for ((i, q), part) in rest.iter().enumerate().zip(&mut parts) {
                        let key = E::load::<S>(keys.add((4 * whole.len() + i) * B));
                        *part = S::fma(S::splat(*q), key, *part);
                    }
                    acc[0] = S::add(S::add(parts[0], parts[1]), S::add(parts[2], parts[3]));
                }
                for (v, acc) in acc.iter().enumerate().take(B / 16) {
                    let mut x = *acc;
                    if E::SCALED {
                        let scales = run.add(key_scales).cast::<f32>();
                        x = S::mul(x, S::load(scales.add(v * 16)));
                    }
                    S::store(scores.as_mut_ptr().add(v * 16), x);
                }
            }
            // From here on only the vectors that hold anything.
            let scores = &mut scores[..held.next_multiple_of(16)];
            // Ring indices that hold nothing, or what has left the window.
            let hidden = if head.pos < capacity as u64 {
                held..scores.len()
            } else {
                0..0
            };
            scores[hidden.clone()].fill(f32::NEG_INFINITY);
            // In the ring, the oldest come right after the newest.
            let seen = held.min(layout.context);
            let stale = held - seen;
            let first = if head.pos < capacity as u64 {
                0
            } else {
                now + 1
            };
            for i in first..first + stale {
                scores[i % capacity] = f32::NEG_INFINITY;
            }
            let mut top = S::splat(f32::NEG_INFINITY);
            for i in (0..scores.len()).step_by(16) {
                top = S::max(S::load(scores.as_ptr().add(i)), top);
            }
            let top = S::splat(S::hmax(top));
            for i in (0..scores.len()).step_by(16) {
                let p = scores.as_mut_ptr().add(i);
                S::store(p, exp::<S>(S::sub(S::load(p), top)));
            }
            // `exp` never gives zero; what is out of sight must weigh exactly nothing.
            scores[hidden].fill(0.0);
            for i in first..first + stale {
                scores[i % capacity] = 0.0;
            }
            let mut sum = S::splat(0.0);
            for i in (0..scores.len()).step_by(16) {
                sum = S::add(sum, S::load(scores.as_ptr().add(i)));
            }
            let total = S::sum(sum);
            if E::SCALED {
                for (b, scores) in scores.chunks_mut(B).enumerate() {
                    let scales = head.run(b).add(value_scales).cast::<f32>();
                    for v in (0..scores.len()).step_by(16) {
                        let p = scores.as_mut_ptr().add(v);
                        S::store(p, S::mul(S::load(p), S::load(scales.add(v))));
                    }
                }
            }
            weigh::<S, E, B>(head, scores, held, 1.0 / total, out.add(r * hd));
        }
    }
}

/// Asks for `count` elements that will be read soon.
#[inline(always)]
fn fetch<S: Simd, E: Element>(p: *const E, count: usize) {
    for at in (0..count * size_of::<E>()).step_by(64) {
        S::prefetch(p.cast::<u8>().wrapping_add(at));
    }
}

/// `out = scale * sum of p[i] * value[i]` over the ring.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Element, const B: usize>(
    head: &Head<'_>,
    p: &[f32],
    held: usize,
    scale: f32,
    out: *mut f32,
) {
    let vw = head.layout.value_width();
    // SAFETY: as in `head_body`; rows of values are padded to whole vectors.
    unsafe {
        let mut start = 0;
        while start < vw {
            // Eight vectors are a head of 128: as many sums as hide the latency of a multiply-add.
            let vectors = match (vw - start) / 16 {
                8.. => 8,
                4.. => 4,
                _ => 1,
            };
            match vectors {
                8 => weigh_part::<S, E, B, 8>(head, p, held, scale, start, out),
                4 => weigh_part::<S, E, B, 4>(head, p, held, scale, start, out),
                _ => weigh_part::<S, E, B, 1>(head, p, held, scale, start, out),
            }
            start += vectors * 16;
        }
    }
}

/// [`weigh`] for `N` vectors of values from `start` on.
#[inline(always)]
unsafe fn weigh_part<S: Simd, E: Element, const B: usize, const N: usize>(
    head: &Head<'_>,
    p: &[f32],
    held: usize,
    scale: f32,
    start: usize,
    out: *mut f32,
) {
    let (hd, vw) = (head.layout.head_dim, head.layout.value_width());
    let values = head.layout.offsets()[0];
    let blocks = held.div_ceil(B);
    // SAFETY: the caller's promise: `start + 16 N` is within a row.
    unsafe {
        let mut acc = [S::splat(0.0); N];
        for (b, p) in p.chunks(B).enumerate() {
            let rows = head.run(b).add(values).cast::<E>().add(start);
            // As in `head_body`: a block ahead.
            let (next, ahead) = match b + 1 < blocks {
                true => (head.run(b + 1).wrapping_add(values), 16 * N),
                false => (std::ptr::null_mut(), 0),
            };
            let next = next.cast::<E>().wrapping_add(start);
            for (i, p) in p.iter().enumerate().take(held - b * B) {
                let at = i * vw;
                fetch::<S, E>(next.wrapping_add(at), ahead);
                let (p, row) = (S::splat(*p), rows.add(at));
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(p, E::load::<S>(row.add(v * 16)), *acc);
                }
            }
        }
        for (v, acc) in acc.iter().enumerate() {
            let at = start + v * 16;
            let mut lanes = [0f32; 16];
            S::store(lanes.as_mut_ptr(), S::mul(*acc, S::splat(scale)));
            for (i, x) in lanes.iter().enumerate().take(hd.saturating_sub(at)) {
                *out.add(at + i) = *x;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cpu::rope_table;

    fn layout(bits: KvBits, heads: usize, repeat: usize, hd: usize, context: usize) -> KvLayout {
        KvLayout {
            layers: 2,
            heads,
            repeat,
            head_dim: hd,
            context,
            bits,
            interleaved: true,
        }
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// Attention of every step over all earlier ones in the window, in double precision.
    fn plain(layout: &KvLayout, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let (h, r, hd) = (layout.heads, layout.repeat, layout.head_dim);
        let turn = |x: &[f32], pos: usize| -> Vec<f64> {
            let mut out = vec![0f64; hd];
            for i in 0..hd / 2 {
                let angle = pos as f64 * 10_000f64.powf(-2.0 * i as f64 / hd as f64);
                let (a, b) = match layout.interleaved {
                    true => (2 * i, 2 * i + 1),
                    false => (i, i + hd / 2),
                };
                let (x, y) = (f64::from(x[a]), f64::from(x[b]));
                out[a] = x * angle.cos() - y * angle.sin();
                out[b] = x * angle.sin() + y * angle.cos();
            }
            out
        };
        let step = |t: usize| -> Vec<f32> {
            let mut out = vec![];
            for q in 0..h * r {
                let query = turn(&rows[t][q * hd..][..hd], t);
                let first = (t + 1).saturating_sub(layout.context);
                let kv = q / r;
                let scores: Vec<f64> = (first..=t)
                    .map(|s| {
                        let key = turn(&rows[s][(h * r + kv) * hd..][..hd], s);
                        let dot: f64 = key.iter().zip(&query).map(|(a, b)| a * b).sum();
                        dot / (hd as f64).sqrt()
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..hd {
                    let at = (h * r + h + kv) * hd + d;
                    let sum: f64 = (first..=t)
                        .map(|s| weights[s - first] * f64::from(rows[s][at]))
                        .sum();
                    out.push((sum / total) as f32);
                }
            }
            out
        };
        (0..rows.len()).map(step).collect()
    }

    fn run(isa: Isa, layout: &KvLayout, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let (mut pool, mut slot) = (KvPool::default(), KvSlot::default());
        // What a slot held before must not show.
        slot.skip(layout.capacity(), layout, &mut pool);
        for b in &mut slot.blocks {
            b.bytes_mut().fill(0x42);
        }
        slot.reset(&mut pool);
        let mut outs = vec![];
        for (t, row) in rows.iter().enumerate() {
            let mut rope = vec![0.0; layout.head_dim];
            rope_table(t as u64, layout.head_dim, 10_000.0, &mut rope);
            slot.prepare(layout, &mut pool);
            let mut out = vec![0f32; layout.out_width()];
            let job = KvAttention {
                layout: *layout,
                layer: 1,
                qkv: row,
                rope: &rope,
                out: &mut out,
            };
            attend_step(isa, job, &mut [&mut slot]);
            slot.pos += 1;
            outs.push(out);
        }
        outs
    }

    #[test]
    fn equals_plain_attention_through_growth_and_wrap() {
        for (heads, repeat, hd, context, interleaved) in [
            (2, 1, 16, 12, true),
            (1, 2, 32, 64, true),
            (2, 1, 8, 100, false),
            (1, 1, 144, 70, true),
            (1, 1, 128, 65, true),
        ] {
            for (bits, tolerance) in [
                (KvBits::F32, 3e-6),
                (KvBits::Bf16, 8e-3),
                (KvBits::Int8, 2e-2),
            ] {
                let mut layout = layout(bits, heads, repeat, hd, context);
                layout.interleaved = interleaved;
                let rows: Vec<_> = (0..300).map(|t| noise(layout.qkv_width(), t + 1)).collect();
                let want = plain(&layout, &rows);
                let mut first: Option<Vec<Vec<f32>>> = None;
                for isa in Isa::available() {
                    let got = run(isa, &layout, &rows);
                    for (t, (g, w)) in got.iter().zip(&want).enumerate() {
                        for (g, w) in g.iter().zip(w) {
                            assert!((g - w).abs() < tolerance, "{isa:?} {bits:?} {t} {g} {w}");
                        }
                    }
                    if isa != Isa::Portable {
                        assert!(*first.get_or_insert_with(|| got.clone()) == got);
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_of_one_more_is_seen() {
        let rows: Vec<_> = (0..100).map(|t| noise(3 * 16, t + 1)).collect();
        let isa = Isa::detect();
        let a = run(isa, &layout(KvBits::F32, 1, 1, 16, 30), &rows);
        let b = run(isa, &layout(KvBits::F32, 1, 1, 16, 31), &rows);
        assert_eq!(a[..30], b[..30]);
        assert!(a[30..].iter().zip(&b[30..]).all(|(a, b)| a != b));
    }

    #[test]
    fn memory_grows_in_blocks_and_stops() {
        let layout = layout(KvBits::Int8, 2, 1, 16, 200);
        let (mut pool, mut slot) = (KvPool::default(), KvSlot::default());
        assert_eq!(slot.bytes(&layout), 0);
        slot.skip(1, &layout, &mut pool);
        assert_eq!(slot.bytes(&layout), layout.block_bytes());
        slot.skip(10_000, &layout, &mut pool);
        assert_eq!(slot.bytes(&layout), 4 * layout.block_bytes());
        assert_eq!(layout.block_bytes(), 2 * 2 * (2 * 16 * 64 + 2 * 64 * 4));
    }
}

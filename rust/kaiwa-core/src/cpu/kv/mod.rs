//! Attention of one new step per slot over a ring of keys and values (docs/spec/moshi.md 3.4 to
//! 3.6): the rings (`store.rs`), what a stored element is (`element.rs`, `int8.rs`), and the sweep
//! over them (`sweep.rs`), which [`attend_step`] shares out among the threads.

mod element;
mod int8;
mod store;
mod sweep;

pub(crate) use store::{KvLayout, KvPool, KvSlot};

use std::cell::RefCell;

use self::sweep::{Heads, Scratch, Soft, heads_of};
use super::isa::{Isa, integer_kernel, kernel};
use super::pool::{self, Shared};
use super::simd::Simd;
use crate::formats::KvFormat;

/// Multiply-adds of a step below which other threads are not asked.
const TASK_WORK: usize = 1 << 15;

/// Heads that a task takes at most, if enough other tasks are left: they lie side by side.
const TASK_HEADS: usize = 8;

/// Tasks wanted before one takes several heads.
const TASKS: usize = 16;

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

//! Keys and values in memory: rings of positions, allocated in blocks.
//!
//! A block holds [`BLOCK`] steps of every layer of one slot ([`SMALL`] if the window is no larger),
//! so a short conversation takes little memory and a long one no more than its window. Inside a
//! block each layer and key/value head has one run of bytes: with int8 one f32 scale per key and per
//! value; keys transposed, `[head_dim, steps]`, so that lanes are positions; values `[steps,
//! head_dim]`, so that lanes are dimensions. With int8 the rows of both are side by side in twos, as
//! the integer dot product takes them. Position `p` lives at ring index `p % capacity`.

use crate::cpu::arena::{Arena, Region};
use crate::formats::KvFormat;

/// Steps of a block: four vectors of scores.
pub(crate) const BLOCK: usize = 64;

/// Steps of a block if the window fits: one vector.
pub(super) const SMALL: usize = 16;

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
    pub(super) fn block(&self) -> usize {
        if self.context <= SMALL { SMALL } else { BLOCK }
    }

    /// Steps that the ring holds.
    pub(crate) fn capacity(&self) -> usize {
        self.context.next_multiple_of(self.block())
    }

    /// Values of a position in whole vectors.
    pub(super) fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Byte offsets of value scales, keys, values, and the end of a head's run, which begins with
    /// the scales of the keys.
    pub(super) fn offsets(&self) -> [usize; 4] {
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
    pub(super) fn qkv_width(&self) -> usize {
        self.heads * self.head_dim * (self.repeat + 2)
    }

    pub(super) fn out_width(&self) -> usize {
        self.heads * self.head_dim * self.repeat
    }
}

/// Keys and values of one slot.
#[derive(Default)]
pub(crate) struct KvSlot {
    /// Steps so far.
    pub pos: u64,
    pub(super) blocks: Vec<Region>,
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

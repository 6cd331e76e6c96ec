//! Rings of keys and values of the temporal transformer (docs/spec/moshi.md 3.6, 10.3): all of them
//! from the start, so that a call that was let in never needs more memory.

use std::sync::Arc;

use super::unsupported;
use super::workspace::{Needs, Scratch};
use crate::cuda::args::{AttentionArgs, Pointer};
use crate::cuda::attention;
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Node;
use crate::error::Result;
use crate::formats::KvFormat;
use crate::lm::{LmConfig, Rope};

/// Columns that a block reads; few in the tests, whose contexts are short.
const SPLIT: usize = if cfg!(test) { 5 } else { attention::SPLIT };

/// How a row of projections is cut into heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    count: usize,
    kv: usize,
    dim: usize,
}

impl Heads {
    fn of(config: &LmConfig) -> Self {
        Self {
            count: config.num_heads,
            kv: config.num_heads / config.kv_repeat.max(1),
            dim: config.head_dim(),
        }
    }
}

/// Whether there is a kernel for this model's heads.
///
/// # Errors
/// [`crate::Error::OptionValue`].
pub(super) fn check(config: &LmConfig, kv: KvFormat) -> Result<()> {
    let width = config.head_dim();
    match attention::kernel(kv, width) {
        Some(_) => Ok(()),
        None => Err(unsupported(format!("heads of width {width}"))),
    }
}

/// Bytes of the rings of one slot.
pub(super) fn bytes_of_slot(config: &LmConfig, kv: KvFormat) -> usize {
    let Heads { kv: heads, dim, .. } = Heads::of(config);
    let scale = if kv == KvFormat::Int8 { 4 } else { 0 };
    2 * config.num_layers * heads * config.context * (dim * kv.bytes() + scale)
}

/// Keys and values of one layer, `[slots, kv heads, context, head dim]` each, and the scales of
/// int8, `[slots, kv heads, context]`.
struct Ring {
    keys: Memory,
    values: Memory,
    scales: Option<(Memory, Memory)>,
}

/// All layers' rings.
pub(super) struct Rings {
    layers: Vec<Ring>,
    heads: Heads,
    context: usize,
    kv: KvFormat,
    rope: Rope,
}

/// What the attention of a frame is told, alike for all layers.
pub(super) struct Step {
    pub slots: Pointer,
    pub positions: Pointer,
    /// `[rows, head dim]`: cosines, then sines.
    pub rotation: Pointer,
    pub qkv: Pointer,
    pub out: Pointer,
}

impl Rings {
    pub(super) fn new(
        executor: &Arc<dyn Executor>,
        config: &LmConfig,
        kv: KvFormat,
        slots: usize,
    ) -> Result<Self> {
        let heads = Heads::of(config);
        let columns = slots * heads.kv * config.context;
        let ring = || -> Result<Ring> {
            let zeros = |bytes: usize| Memory::zeros(executor, columns * bytes);
            let bytes = heads.dim * kv.bytes();
            Ok(Ring {
                keys: zeros(bytes)?,
                values: zeros(bytes)?,
                scales: match kv {
                    KvFormat::Int8 => Some((zeros(4)?, zeros(4)?)),
                    _ => None,
                },
            })
        };
        Ok(Self {
            layers: (0..config.num_layers)
                .map(|_| ring())
                .collect::<Result<_>>()?,
            heads,
            context: config.context,
            kv,
            rope: config.rope,
        })
    }

    /// Scratch memory that the attention uses.
    pub(super) fn needs(config: &LmConfig, rows: usize) -> Needs {
        let Heads { count, kv, dim } = Heads::of(config);
        Needs {
            partial: attention::partial_floats(config.context, SPLIT, count, dim, rows),
            counters: rows * kv,
        }
    }

    /// The attention of one layer.
    pub(super) fn node(
        &self,
        layer: usize,
        rows: usize,
        step: &Step,
        scratch: &Scratch,
    ) -> Result<Node> {
        let Heads { count, kv, dim } = self.heads;
        let kernel = attention::kernel(self.kv, dim);
        let kernel = kernel.ok_or_else(|| unsupported(format!("heads of width {dim}")))?;
        let ring = &self.layers[layer];
        let (key_scales, value_scales) = match &ring.scales {
            Some((keys, values)) => (keys.start(), values.start()),
            None => (Pointer::NULL, Pointer::NULL),
        };
        let args = AttentionArgs {
            qkv: step.qkv,
            rotation: step.rotation,
            slots: step.slots,
            positions: step.positions,
            keys: ring.keys.start(),
            values: ring.values.start(),
            key_scales,
            value_scales,
            out: step.out,
            partial: scratch.partial(),
            counters: scratch.counters(),
            heads: count as i32,
            kv_heads: kv as i32,
            context: self.context as i32,
            split: SPLIT as i32,
            splits: attention::splits(self.context, SPLIT) as i32,
            halves: i32::from(self.rope == Rope::NeoX),
            score_scale: attention::score_scale(dim),
            padding: 0,
        };
        let shape = attention::shape(self.context, SPLIT, kv, rows);
        Ok(Node::new(kernel, shape, &args))
    }

    /// Copies what one slot holds over another's: the control of tests.
    #[cfg(test)]
    pub(super) fn copy_slot(&self, executor: &dyn Executor, from: usize, to: usize) -> Result<()> {
        for ring in &self.layers {
            let scales = ring.scales.iter().flat_map(|(keys, values)| [keys, values]);
            for memory in [&ring.keys, &ring.values].into_iter().chain(scales) {
                let bytes = self.heads.kv * self.context * self.column_bytes(memory, ring);
                let mut held = vec![0; bytes];
                executor.read(memory.at(from * bytes), &mut held)?;
                executor.write(memory.at(to * bytes), &held)?;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    fn column_bytes(&self, memory: &Memory, ring: &Ring) -> usize {
        match memory.start() == ring.keys.start() || memory.start() == ring.values.start() {
            true => self.heads.dim * self.kv.bytes(),
            false => 4,
        }
    }
}

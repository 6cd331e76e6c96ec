//! Running state of the slots of a stream.

use std::sync::Arc;

use super::CpuLm;
use super::depth::DepthWork;
use super::stages::{self, Stages};
use super::temporal::TemporalWork;
use crate::cpu::{KvLayout, KvPool, KvSlot};
use crate::error::Result;
use crate::lm::Rope;
use crate::lm::backend::Instruments;
use crate::lm::backend::host_sampled::Transformers;

/// Keys and values of all slots, and the scratch of a step.
pub(crate) struct CpuState {
    model: Arc<CpuLm>,
    layout: KvLayout,
    pool: KvPool,
    slots: Vec<KvSlot>,
    temporal: TemporalWork,
    depth: DepthWork,
    stages: Stages,
}

impl CpuState {
    pub(super) fn new(model: Arc<CpuLm>, slots: usize) -> Self {
        let config = &model.config;
        let layout = KvLayout {
            layers: config.num_layers,
            heads: config.num_heads / config.kv_repeat,
            repeat: config.kv_repeat,
            head_dim: config.head_dim(),
            context: config.context,
            bits: model.kv,
            interleaved: config.rope == Rope::Interleaved,
        };
        Self {
            layout,
            pool: KvPool::default(),
            slots: std::iter::repeat_with(KvSlot::default)
                .take(slots)
                .collect(),
            temporal: TemporalWork::default(),
            depth: DepthWork::default(),
            stages: Stages::default(),
            model,
        }
    }
}

impl Transformers for CpuState {
    fn temporal(
        &mut self,
        slots: &[usize],
        tokens: &[i32],
        conditions: &[f32],
        logits: &mut [f32],
    ) -> Result<()> {
        let Self {
            model,
            layout,
            pool,
            slots: all,
            temporal,
            stages,
            ..
        } = self;
        let mut on = vec![false; all.len()];
        for slot in slots {
            on[*slot] = true;
        }
        let mut active: Vec<&mut KvSlot> = all
            .iter_mut()
            .zip(on)
            .filter_map(|(slot, on)| on.then_some(slot))
            .collect();
        for slot in &mut active {
            slot.prepare(layout, pool);
        }
        model.temporal.run(
            model.isa,
            *layout,
            &mut active,
            tokens,
            conditions,
            logits,
            temporal,
            stages,
        );
        Ok(())
    }

    fn heads(&mut self, logits: &mut [f32]) -> Result<()> {
        self.stages.start();
        self.model.temporal.heads(&mut self.temporal, logits);
        self.stages.end(stages::TEXT_HEAD);
        Ok(())
    }

    fn depth(&mut self, k: usize, previous: &[i32], logits: &mut [f32]) -> Result<()> {
        let Self {
            model,
            temporal,
            depth,
            stages,
            ..
        } = self;
        stages.start();
        if let Some(weights) = &model.depth {
            weights.run(model.isa, k, &temporal.z, previous, logits, depth);
        }
        stages.end(stages::DEPTH);
        Ok(())
    }

    fn advance(&mut self, slots: &[usize]) {
        for slot in slots {
            self.slots[*slot].pos += 1;
        }
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        if let Some(one) = self.slots.get_mut(slot) {
            one.reset(&mut self.pool);
        }
        Ok(())
    }

    fn slot_bytes(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |s| s.bytes(&self.layout))
    }
}

impl Instruments for CpuState {
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        self.stages.get()
    }

    fn clear_stage_seconds(&mut self) {
        self.stages.clear();
    }

    fn skip(&mut self, steps: usize) -> Result<()> {
        for slot in &mut self.slots {
            slot.skip(steps, &self.layout, &mut self.pool);
        }
        Ok(())
    }
}

#[cfg(test)]
impl CpuState {
    /// Shares a state on purpose: the control of the tests on independence.
    pub(crate) fn copy_slot(&mut self, from: usize, to: usize) {
        self.slots[to] = self.slots[from].copy(&self.layout, &mut self.pool);
    }
}

//! Running state of the slots of a stream.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::CandleLm;
use super::depth::Frame;
use super::internal_error;
use super::kv::Rings;
use crate::device::memory;
use crate::error::{Error, Result};
use crate::lm::backend::Instruments;
use crate::lm::backend::host_sampled::Transformers;

/// See the module; made by [`super::CandleLm`].
pub(super) struct CandleState {
    model: Arc<CandleLm>,
    rings: Rings,
    /// Steps each slot has made since its reset.
    positions: Vec<u64>,
    /// Rows of the last temporal pass, and what its sub-steps have kept; none before the first
    /// pass and after one that failed.
    frame: Option<(usize, Frame)>,
}

impl CandleState {
    pub(super) fn new(model: Arc<CandleLm>, slots: usize) -> Result<Self> {
        let config = &model.config;
        let heads = model.temporal.heads();
        // Kernels count the numbers of a ring in u32.
        let most = u32::MAX as usize / (heads.kv * heads.dim * config.context).max(1);
        if slots > most {
            return Err(Error::OptionValue {
                name: "slots",
                got: slots.to_string(),
                allowed: format!("at most {most} for this model"),
            });
        }
        let (layers, context) = (config.num_layers, config.context);
        let bytes = Rings::bytes_of_slot(layers, heads, context, model.kv);
        let rings = model.device.run(|candle| {
            memory::check_slots(&model.device, slots, bytes)?;
            Rings::new(layers, slots, heads, context, model.kv, candle)
        })?;
        Ok(Self {
            rings,
            positions: vec![0; slots],
            frame: None,
            model,
        })
    }
}

impl Transformers for CandleState {
    /// On an error the same step can be made again: the keys already written lie where it will
    /// write. (A device that stays broken after an error, as CUDA does after an illegal access,
    /// gives [`Error::DeviceLost`] from then on.) The frame before is over in any case.
    fn temporal(
        &mut self,
        slots: &[usize],
        tokens: &[i32],
        conditions: &[f32],
        logits: &mut [f32],
    ) -> Result<()> {
        let model = &self.model;
        let (rows, config) = (slots.len(), &model.config);
        let ascending = slots.windows(2).all(|pair| pair[0] < pair[1]);
        let known = slots.last().is_none_or(|s| *s < self.positions.len());
        if !ascending || !known || tokens.len() != rows * (config.n_q + 1) {
            return Err(internal_error("slots and tokens do not fit"));
        }
        if !conditions.is_empty() && conditions.len() != rows * config.dim {
            return Err(internal_error("conditions do not fit"));
        }
        self.frame = None;
        if rows == 0 {
            return Ok(());
        }
        let (temporal, rings) = (&model.temporal, &self.rings);
        let z = model.device.run(|candle| {
            let inputs = temporal.embed(tokens, conditions)?;
            let z = temporal.run(inputs, slots, &self.positions, rings, candle)?;
            to_host(&temporal.text_logits(&z)?, logits)?;
            Ok(z)
        })?;
        self.frame = Some((rows, Frame::new(z)));
        Ok(())
    }

    fn heads(&mut self, logits: &mut [f32]) -> Result<()> {
        let frame = self.frame.as_ref();
        let (_, frame) = frame.ok_or_else(|| internal_error("no step came before its heads"))?;
        self.model
            .device
            .run(|_| to_host(&self.model.temporal.extra_logits(frame.z())?, logits))
    }

    /// On an error the sub-step is not made and can be made again.
    fn depth(&mut self, k: usize, previous: &[i32], logits: &mut [f32]) -> Result<()> {
        let depth = self.model.depth.as_ref();
        let depth = depth.ok_or_else(|| internal_error("this model has no depth transformer"))?;
        if previous.is_empty() && logits.is_empty() {
            return Ok(());
        }
        let frame = self.frame.as_mut();
        let (rows, frame) =
            frame.ok_or_else(|| internal_error("no step came before the sub-step"))?;
        if previous.len() != *rows || logits.len() != *rows * self.model.config.card {
            return Err(internal_error("rows of a sub-step are those of its step"));
        }
        self.model.device.run(|candle| {
            let found = depth.run(k, previous, frame, candle)?;
            to_host(&found, logits)
        })
    }

    fn advance(&mut self, slots: &[usize]) {
        for slot in slots {
            self.positions[*slot] += 1;
        }
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        let slots = self.positions.len();
        if slot >= slots {
            return Err(Error::SlotIndex { got: slot, slots });
        }
        self.model.device.run(|_| self.rings.clear(slot))?;
        self.positions[slot] = 0;
        Ok(())
    }

    fn slot_bytes(&self, slot: usize) -> usize {
        match self.positions.get(slot) {
            None => 0,
            Some(position) => self.rings.slot_bytes() + size_of_val(position),
        }
    }
}

impl Instruments for CandleState {
    fn skip(&mut self, steps: usize) -> Result<()> {
        for position in &mut self.positions {
            *position += steps as u64;
        }
        Ok(())
    }
}

impl Drop for CandleState {
    fn drop(&mut self) {
        self.model.device.prepare_drop();
    }
}

#[cfg(test)]
impl CandleState {
    /// Shares a state on purpose: the control of the tests on independence.
    pub(super) fn copy_slot(&mut self, from: usize, to: usize) {
        if self.rings.copy(from, to).is_ok() {
            self.positions[to] = self.positions[from];
        }
    }
}

/// `[rows, width]` of the device, waited for.
fn to_host(tensor: &Tensor, out: &mut [f32]) -> Result<()> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if values.len() != out.len() {
        return Err(internal_error("logits have another length"));
    }
    out.copy_from_slice(&values);
    Ok(())
}

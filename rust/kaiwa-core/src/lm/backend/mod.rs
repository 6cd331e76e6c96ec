//! What a stream asks of the arithmetic: one temporal pass, then sub-steps of the depth
//! transformer, for whichever slots are active.

pub(crate) mod candle;
pub(crate) mod cpu;

use std::sync::Arc;

use crate::error::Result;

/// A model's weights on a device; shared by all its streams.
pub(crate) trait LmBackend: Send + Sync {
    /// Fresh running state of `slots` conversations.
    fn state(self: Arc<Self>, slots: usize) -> Result<Box<dyn LmState>>;
    /// Bytes of weights in memory.
    fn weight_bytes(&self) -> usize;
    /// Bytes of weights that a step reads, by stage; empty where it is not known.
    fn step_bytes(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }
    /// How matrices are held, e.g. `int8`.
    fn weights(&self) -> String;
}

/// Running state of the slots of a stream.
pub(crate) trait LmState: Send {
    /// Advances the given slots (ascending, distinct) by one step.
    ///
    /// `tokens` is `[rows, n_q + 1]`, text first: checked ids, or -1 for an embedding of zeros.
    /// `conditions`, if not empty, is `[rows, dim]` and added to the inputs. Writes `[rows,
    /// text_card_out]` to `text_logits`. On an error no slot has advanced.
    fn temporal(
        &mut self,
        slots: &[usize],
        tokens: &[i32],
        conditions: &[f32],
        text_logits: &mut [f32],
    ) -> Result<()>;

    /// Sub-step `k` for the rows of the last temporal pass: `previous` holds the text token
    /// (k = 0) or the code of codebook `k - 1`, or -1; writes `[rows, card]` to `logits`.
    fn depth(&mut self, k: usize, previous: &[i32], logits: &mut [f32]) -> Result<()>;

    /// Returns a slot to its beginning.
    fn reset(&mut self, slot: usize) -> Result<()>;

    /// Bytes of running state held for a slot now.
    fn slot_bytes(&self, slot: usize) -> usize;

    /// Seconds spent in each stage since the last clearing; empty where it is not known.
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Starts the count anew.
    fn clear_stage_seconds(&mut self) {}

    /// Moves all slots on by `steps` positions without computing them, as if keys and values of
    /// zeros (or of earlier conversations) lay there: for benchmarks of a full window.
    fn skip(&mut self, steps: usize) -> Result<()>;

    /// Shares a state on purpose: the control of the tests on independence.
    #[cfg(test)]
    fn copy_slot(&mut self, _from: usize, _to: usize) {}
}

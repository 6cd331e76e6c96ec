//! The seam between a stream and the arithmetic: a backend makes whole frames.
//!
//! [`LmState::step`] takes everything that a frame of the active slots is made of, sampling
//! included, and gives tokens; so a device can make a frame without coming back to the host.
//! Backends that sample on the processor implement [`host_sampled::Transformers`] instead, and get
//! the loop over the sub-steps from [`host_sampled::HostSampled`].

pub(crate) mod candle;
pub(crate) mod cpu;
#[cfg(any(feature = "cuda", feature = "cuda-sim"))]
pub(crate) mod cuda;
mod form;
pub(crate) mod host_sampled;
mod progress;
mod table;

use std::any::Any;
use std::sync::Arc;

use super::Sampling;
use crate::error::Result;
use crate::formats::WeightFormat;

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
    /// How most matrices are held.
    fn weights(&self) -> WeightFormat;
}

/// Running state of the slots of a stream. (`Any`, so that tests can reach a backend's own.)
pub(crate) trait LmState: Instruments + Any + Send {
    /// Makes one frame of every slot of `frame`: the text token, then the codebooks, each
    /// conditioned on the choice before it.
    ///
    /// # Errors
    /// What the device says. No slot has advanced then, and the same frame can be made again.
    fn step(&mut self, frame: &Frame<'_>) -> Result<FrameTokens>;

    /// Logits of the last frame; empty if there was none, or if it failed.
    fn logits(&mut self) -> Result<FrameLogits>;

    /// Returns a slot to its beginning.
    fn reset(&mut self, slot: usize) -> Result<()>;

    /// Bytes of running state held for a slot now.
    fn slot_bytes(&self, slot: usize) -> usize;
}

/// What benchmarks ask of a state.
pub(crate) trait Instruments {
    /// Seconds spent in each stage since the last clearing; empty where it is not known.
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Starts the count anew.
    fn clear_stage_seconds(&mut self) {}

    /// Moves all slots on by `steps` positions without computing them, as if keys and values of
    /// zeros (or of earlier conversations) lay there.
    fn skip(&mut self, steps: usize) -> Result<()>;
}

/// What a frame is made of: a row for each active slot, checked by the stream.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// The active slots, ascending and distinct.
    pub slots: &'a [usize],
    /// `[rows, n_q + 1]`, text first: ids, or -1 for an embedding of zeros.
    pub tokens: &'a [i32],
    /// `[rows, dim]`, added to the inputs; empty if the model has no conditions.
    pub conditions: &'a [f32],
    /// `[rows]`: how each row samples.
    pub draws: &'a [Draw],
    /// `[rows]`: text token to take instead of a sampled one; negative samples. Empty if all do.
    pub force_text: &'a [i32],
    /// `[rows, spoken]`: codes to take instead of sampled ones; negative samples. Empty if all do.
    pub force_audio: &'a [i32],
}

/// How a row of a frame samples. Draw 0 of a step is that of the text, draw `1 + k` that of
/// codebook `k` (see [`super::random::uniform`]).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub sampling: Sampling,
    pub seed: u64,
    /// Steps of the conversation before this one.
    pub step: u64,
}

/// What a frame gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FrameTokens {
    /// `[rows]`.
    pub text: Vec<i32>,
    /// `[rows, spoken]`.
    pub audio: Vec<i32>,
    /// `[rows, extra heads, classes]`: probabilities, of which each head's add up to 1.
    pub heads: Vec<f32>,
    /// `[rows]`: false where any logit of the row is NaN or infinite, so that its tokens mean
    /// nothing.
    pub finite: Vec<bool>,
}

/// Logits of a frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FrameLogits {
    /// `[rows, text_card_out]`.
    pub text: Vec<f32>,
    /// `[rows, spoken, card]`.
    pub audio: Vec<f32>,
}

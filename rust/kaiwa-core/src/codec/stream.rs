//! Streaming: N independent slots stepped together, each with its own state.

use super::Mimi;
use crate::error::{Error, Result};

/// Which keys a latent step may attend to (spec mimi.md 3.1). The two differ once a stream is
/// longer than `context / 2` frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The rule of whole-signal calls: the last `context` steps.
    Whole,
    /// The rule of the reference's streaming mode, one frame at a time.
    Streaming,
}

impl Window {
    /// Parses `whole` or `streaming`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "whole" => Ok(Self::Whole),
            "streaming" => Ok(Self::Streaming),
            _ => Err(Error::OptionValue {
                name: "window",
                got: format!("{text:?}"),
                allowed: "\"streaming\" or \"whole\"".into(),
            }),
        }
    }
}

/// Encoder and decoder state of `slots` conversations over one [`Mimi`].
pub struct MimiStream {
    mimi: Mimi,
    slots: usize,
}

impl MimiStream {
    pub(super) fn new(mimi: Mimi, slots: usize, _window: Window) -> Result<Self> {
        Ok(Self { mimi, slots })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The weights this stream runs on.
    pub fn mimi(&self) -> &Mimi {
        &self.mimi
    }

    /// Bytes of running state of all slots, encoder and decoder.
    pub fn state_bytes(&self) -> usize {
        0
    }

    /// `pcm` is `[slots, frames * frame_size]`; gives codes `[slots, num_codebooks, frames]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as -1.
    pub fn encode(&mut self, _pcm: &[f32], _active: Option<&[bool]>) -> Result<Vec<i32>> {
        Err(Error::Interrupted)
    }

    /// `codes` is `[slots, codebooks, frames]`; gives audio `[slots, frames * frame_size]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as 0.
    pub fn decode(
        &mut self,
        _codes: &[i64],
        _codebooks: usize,
        _active: Option<&[bool]>,
    ) -> Result<Vec<f32>> {
        Err(Error::Interrupted)
    }

    /// Returns the given slots (all if `None`) to their initial state, encoder and decoder.
    pub fn reset(&mut self, _slots: Option<&[usize]>) -> Result<()> {
        Ok(())
    }
}

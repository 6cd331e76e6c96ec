//! What is known about a session, for lists and logs.

use super::state::{Phase, SessionInner};

/// What is known about a session.
#[derive(Debug, Clone, Default)]
pub struct SessionInfo {
    /// Its number.
    pub id: u64,
    /// `queued`, `active`, `held`, `paused` or `ended`.
    pub state: &'static str,
    /// Its slot.
    pub slot: Option<usize>,
    /// Place in the queue, else 0.
    pub position: usize,
    /// Seconds since it got its slot.
    pub seconds: f64,
    /// Frames taken in.
    pub frames_in: u64,
    /// Answers made.
    pub frames_out: u64,
    /// Frames waiting.
    pub backlog: usize,
    /// Frames of the caller that were dropped.
    pub dropped_input: u64,
    /// Answers that were dropped.
    pub dropped_output: u64,
    /// Seed of its sampling.
    pub seed: u64,
}

impl SessionInner {
    /// What is known about this session now.
    pub fn info(&self) -> SessionInfo {
        let state = self.lock();
        let (slot, position) = match state.phase {
            Phase::Active(slot) => (Some(slot), 0),
            Phase::Queued(position) => (None, position),
            Phase::Ended => (None, 0),
        };
        let name = match state.phase {
            Phase::Queued(_) => "queued",
            Phase::Ended => "ended",
            Phase::Active(_) if state.held_until.is_some() => "held",
            Phase::Active(_) if state.paused => "paused",
            Phase::Active(_) => "active",
        };
        SessionInfo {
            id: self.id,
            state: name,
            slot,
            position,
            seconds: slot.map_or(0.0, |_| self.engine.clock.now() - state.started),
            frames_in: state.input.frames_in,
            frames_out: state.output.frames_out,
            backlog: state.input.frames.len(),
            dropped_input: state.input.dropped,
            dropped_output: state.output.dropped,
            seed: self.options.start.seed,
        }
    }
}

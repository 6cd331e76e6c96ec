//! What the engine has made and the caller has not fetched yet.

use std::collections::VecDeque;

use super::{Event, Transport};
use crate::audio::OpusWriter;

/// Answers that wait for their caller; beyond, a call's oldest is dropped (640 ms).
pub(super) const OUT_FRAMES: usize = 8;
/// Events, answers among them, that wait for the reader of a file; beyond, it is not stepped.
pub(super) const OUT_EVENTS: usize = 64;
/// Seconds of dropping answers without a break until a caller counts as too slow.
pub(super) const SLOW: f64 = 5.0;

/// When the last sample of an answer's input came, and how long its step took.
pub type Timing = (f64, f64);

/// What waits to be handed out, in order.
pub(super) enum Out {
    Frame {
        number: u64,
        pcm: Vec<f32>,
        timing: Timing,
    },
    Event(Event),
}

/// What the engine has made and the caller has not fetched yet.
#[derive(Default)]
pub(in crate::engine) struct OutputQueue {
    /// Answers made, and those of them that were dropped.
    pub frames_out: u64,
    pub dropped: u64,
    pub(super) waiting: VecDeque<Out>,
    /// Frames in `waiting`.
    pub(super) frames: usize,
    /// Events that can be fetched; with a timing if they are audio.
    pub(super) ready: VecDeque<(Event, Option<Timing>)>,
    /// A worker encodes.
    pub(super) encoding: bool,
    pub(super) encoder: Option<OpusWriter>,
    pub(super) dropping_since: Option<f64>,
}

impl OutputQueue {
    /// Whether there is something to fetch.
    pub fn has_events(&self, transport: Transport) -> bool {
        (transport == Transport::Pcm && !self.waiting.is_empty()) || !self.ready.is_empty()
    }

    /// Whether there is room for what another step of a file gives.
    pub fn has_room(&self) -> bool {
        self.frames < OUT_FRAMES && self.waiting.len() + self.ready.len() < OUT_EVENTS
    }

    /// Forgets what a lost connection has not fetched, but not an end.
    pub fn disconnect(&mut self) {
        self.encoder = None;
        self.waiting
            .retain(|o| matches!(o, Out::Event(Event::End { .. })));
        self.frames = 0;
        self.ready.retain(|(e, _)| matches!(e, Event::End { .. }));
        self.dropping_since = None;
    }

    /// Drops the oldest frame of those that wait.
    pub fn drop_oldest(&mut self) {
        let frame = |o: &Out| matches!(o, Out::Frame { .. });
        if let Some(oldest) = self.waiting.iter().position(frame) {
            self.waiting.remove(oldest);
            self.frames -= 1;
            self.dropped += 1;
        }
    }
}

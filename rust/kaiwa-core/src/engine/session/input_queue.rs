//! What a caller has sent and no step has taken yet.

use std::collections::VecDeque;

use crate::audio::OpusReader;
use crate::engine::pace::{Pace, Pacer};
use crate::pipeline::Frame;

/// Input that waits until a caller that is not paced has to wait.
const ROOM: usize = 8;
/// Encoded bytes that may wait to be decoded.
const ENCODED_BYTES: usize = 1 << 20;

/// A frame of input.
pub(in crate::engine) struct InFrame {
    pub frame: Frame,
    /// When its last sample came.
    pub arrived: f64,
}

/// A message that was not decoded yet.
pub(super) struct Encoded {
    pub bytes: Vec<u8>,
    /// When it came.
    pub arrived: f64,
    /// `InputQueue::cleared` at that time: what was thrown away since is decoded, because the stream
    /// goes on, and not heard.
    pub cleared: u64,
}

/// What a caller has sent and no step has taken yet.
pub(in crate::engine) struct InputQueue {
    pub pacer: Pacer,
    pub frames: VecDeque<InFrame>,
    /// The caller sends nothing more.
    pub finished: bool,
    /// Frames of input so far, and those of them (or silence) that were stepped.
    pub frames_in: u64,
    pub stepped: u64,
    pub dropped: u64,
    /// Messages that held nothing that is known.
    pub bad_messages: u64,
    /// Samples of a frame that is not complete.
    pub(super) partial: Vec<f32>,
    pub(super) encoded: VecDeque<Encoded>,
    /// How often all that waited was thrown away.
    pub(super) cleared: u64,
    pub(super) encoded_bytes: usize,
    /// A worker decodes.
    pub(super) decoding: bool,
    pub(super) decoder: Option<OpusReader>,
}

impl InputQueue {
    pub fn new(pace: Pace, now: f64) -> Self {
        Self {
            pacer: Pacer::new(pace, now),
            frames: VecDeque::new(),
            finished: false,
            frames_in: 0,
            stepped: 0,
            dropped: 0,
            bad_messages: 0,
            partial: Vec::new(),
            encoded: VecDeque::new(),
            cleared: 0,
            encoded_bytes: 0,
            decoding: false,
            decoder: None,
        }
    }

    /// Whether encoded input is still on its way to the queue.
    pub fn decoding(&self) -> bool {
        self.decoding || !self.encoded.is_empty()
    }

    /// Whether a caller that is not paced should go on sending.
    pub fn has_room(&self) -> bool {
        self.frames.len() < ROOM && self.encoded.len() < ROOM
    }

    /// Forgets frames and messages, at the end of the session.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.encoded.clear();
        self.encoded_bytes = 0;
    }

    /// Forgets what a lost connection sent and was not decoded; the next one is a new stream.
    pub fn disconnect(&mut self) {
        self.encoded.clear();
        self.encoded_bytes = 0;
        self.decoder = None;
    }

    /// Adds an encoded message; drops the oldest where too many bytes wait. True if a worker has
    /// to be started.
    pub fn push_encoded(&mut self, bytes: Vec<u8>, now: f64) -> bool {
        self.encoded_bytes += bytes.len();
        self.encoded.push_back(Encoded {
            bytes,
            arrived: now,
            cleared: self.cleared,
        });
        while self.encoded_bytes > ENCODED_BYTES && self.encoded.len() > 1 {
            if let Some(old) = self.encoded.pop_front() {
                self.encoded_bytes -= old.bytes.len();
                self.bad_messages += 1;
            }
        }
        !std::mem::replace(&mut self.decoding, true)
    }
}

//! A session's input: encoded bytes, samples, frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::state::{Phase, SessionInner, State};
use crate::audio::OpusReader;
use crate::engine::EndReason;
use crate::engine::pace::{Pace, Pacer};
use crate::pipeline::{FRAME_SIZE, Frame};

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
    partial: Vec<f32>,
    /// Encoded messages, and when they came.
    encoded: VecDeque<(Vec<u8>, f64)>,
    encoded_bytes: usize,
    /// A worker decodes.
    decoding: bool,
    decoder: Option<OpusReader>,
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
        self.encoded.push_back((bytes, now));
        while self.encoded_bytes > ENCODED_BYTES && self.encoded.len() > 1 {
            if let Some((old, _)) = self.encoded.pop_front() {
                self.encoded_bytes -= old.len();
                self.bad_messages += 1;
            }
        }
        !std::mem::replace(&mut self.decoding, true)
    }
}

impl SessionInner {
    /// Whether input counts now: what comes before the slot, or while paused or held, is lost.
    pub fn accepts_input(state: &State) -> bool {
        matches!(state.phase, Phase::Active(_))
            && !state.paused
            && !state.input.finished
            && state.held_until.is_none()
            && state.closing.is_none()
    }

    /// Drops the frames that wait; they count as dropped, so that nobody waits for their answers.
    pub fn drop_input(&self, state: &mut State) {
        let dropped = state.input.frames.len() as u64;
        state.input.frames.clear();
        state.input.partial.clear();
        state.input.dropped += dropped;
        self.engine.stats().dropped_input += dropped;
    }

    /// Samples into frames, frames into the queue.
    pub fn accept_audio(&self, state: &mut State, pcm: &[f32], arrived: f64) {
        state.input.partial.extend_from_slice(pcm);
        let whole = state.input.partial.len() / FRAME_SIZE * FRAME_SIZE;
        let rest = state.input.partial.split_off(whole);
        let samples = std::mem::replace(&mut state.input.partial, rest);
        let frames = samples.chunks_exact(FRAME_SIZE);
        self.accept_frames(state, frames.map(|f| Frame::Audio(f.to_vec())), arrived);
    }

    /// Frames into the queue; of a call, the oldest are dropped where too many wait.
    pub fn accept_frames(
        &self,
        state: &mut State,
        frames: impl Iterator<Item = Frame>,
        arrived: f64,
    ) {
        state.last_input = arrived;
        let input = &mut state.input;
        let (mut came, mut dropped, mut too_fast) = (0, 0, false);
        for frame in frames {
            input.frames.push_back(InFrame { frame, arrived });
            came += 1;
            let arrival = input.pacer.arrived(arrived, input.frames.len());
            input.frames.drain(..arrival.drop);
            dropped += arrival.drop as u64;
            too_fast |= arrival.too_fast;
        }
        input.frames_in += came;
        input.dropped += dropped;
        if too_fast && state.closing.is_none() {
            let message = "audio came more than ten seconds faster than real time; send one frame \
                           each 80 ms, or connect with pace=none";
            state.closing = Some((EndReason::InputTooFast, message.into()));
        }
        if came > 0 {
            let mut stats = self.engine.stats();
            stats.frames_in += came;
            stats.dropped_input += dropped;
            drop(stats);
            self.engine.wake();
        }
    }

    /// Takes an encoded message; a worker decodes it.
    pub fn accept_encoded(self: &Arc<Self>, state: &mut State, bytes: Vec<u8>, now: f64) {
        if state.input.push_encoded(bytes, now) {
            let this = self.clone();
            self.engine.spawn_opus(move || this.decode());
        }
    }

    /// Decodes what has come, on a thread of the Opus pool.
    fn decode(self: &Arc<Self>) {
        let mut pcm = Vec::new();
        loop {
            let mut state = self.lock();
            let Some((bytes, arrived)) = state.input.encoded.pop_front() else {
                state.input.decoding = false;
                self.notify(&state);
                if state.input.finished {
                    self.engine.wake();
                }
                return;
            };
            state.input.encoded_bytes -= bytes.len();
            let connection = state.connection;
            let decoder = state.input.decoder.take();
            drop(state);

            let started = Instant::now();
            let mut decoder = match decoder.map_or_else(OpusReader::new, Ok) {
                Ok(decoder) => decoder,
                Err(error) => {
                    let mut state = self.lock();
                    state.input.decoding = false;
                    self.close_with(&mut state, EndReason::Error, error.to_string());
                    return;
                }
            };
            pcm.clear();
            let summary = decoder.read(&bytes, &mut pcm);
            let seconds = started.elapsed().as_secs_f64();

            let mut state = self.lock();
            if state.connection != connection {
                continue;
            }
            state.input.decoder = Some(decoder);
            if summary.packets == 0 && summary.stray_bytes > 0 {
                state.input.bad_messages += 1;
            }
            {
                let mut stats = self.engine.stats();
                stats.stage("opus_decode", seconds);
                stats.bad_packets += summary.bad_packets as u64;
            }
            // What was sent before the end of input counts.
            let finished = std::mem::replace(&mut state.input.finished, false);
            let accepts = Self::accepts_input(&state);
            state.input.finished = finished;
            if accepts {
                self.accept_audio(&mut state, &pcm, arrived);
            }
        }
    }

    /// Puts the rest of finished input into the queue, its last frame filled up with silence;
    /// false while some of it is still being decoded.
    pub fn flush_input(&self, state: &mut State) -> bool {
        if state.input.decoding() {
            return false;
        }
        if !state.input.partial.is_empty() {
            let missing = FRAME_SIZE - state.input.partial.len();
            let now = self.engine.clock.now();
            self.accept_audio(state, &vec![0.0; missing], now);
        }
        true
    }
}

//! A session takes input: encoded bytes, samples, frames.

use std::sync::Arc;
use std::time::Instant;

use super::input_queue::{Encoded, InFrame};
use super::state::{Phase, SessionInner, State};
use crate::audio::OpusReader;
use crate::engine::EndReason;
use crate::engine::pace::Pace;
use crate::pipeline::{FRAME_SIZE, Frame};

impl SessionInner {
    /// Whether input counts now. What comes while paused or held is lost, and of a call also what
    /// comes before the slot: it would be delay for ever. A file's waits for the slot.
    pub fn accepts_input(&self, state: &State) -> bool {
        let waits = self.options.pace == Pace::None && matches!(state.phase, Phase::Queued(_));
        (waits || matches!(state.phase, Phase::Active(_)))
            && !state.paused
            && !state.input.finished
            && state.held_until.is_none()
            && state.closing.is_none()
    }

    /// Drops all that was sent and not stepped. Frames count as dropped, so that nobody waits for
    /// their answers; what is still to be decoded will not be heard.
    pub fn drop_input(&self, state: &mut State) {
        let dropped = state.input.frames.len() as u64;
        state.input.frames.clear();
        state.input.partial.clear();
        state.input.cleared += 1;
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
            let Some(Encoded {
                bytes,
                arrived,
                cleared,
            }) = state.input.encoded.pop_front()
            else {
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
            let accepts = self.accepts_input(&state) && state.input.cleared == cleared;
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

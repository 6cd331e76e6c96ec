//! A session gives output: answers that wait to be encoded, and events that wait to be fetched.

use std::sync::Arc;
use std::time::Instant;

use super::output_queue::{OUT_FRAMES, Out, SLOW, Timing};
use super::state::{SessionInner, State};
use super::{Event, Transport};
use crate::audio::OpusWriter;
use crate::engine::EndReason;
use crate::engine::pace::Pace;

impl SessionInner {
    /// Puts an event behind what waits to be handed out.
    pub fn post(self: &Arc<Self>, state: &mut State, event: Event) {
        state.output.waiting.push_back(Out::Event(event));
        self.advance(state);
    }

    /// Puts an answer behind what waits; drops a call's oldest where too many wait.
    pub fn answer(self: &Arc<Self>, state: &mut State, pcm: Vec<f32>, timing: Timing) {
        let output = &mut state.output;
        output.waiting.push_back(Out::Frame {
            number: output.frames_out,
            pcm,
            timing,
        });
        output.frames_out += 1;
        output.frames += 1;
        if output.frames > OUT_FRAMES && self.options.pace == Pace::RealTime {
            output.drop_oldest();
            self.engine.stats().dropped_output += 1;
            let now = self.engine.clock.now();
            let since = *output.dropping_since.get_or_insert(now);
            if now - since >= SLOW && state.closing.is_none() {
                let message = "answers were not fetched for five seconds; read faster or use a \
                               better connection";
                state.closing = Some((EndReason::SlowConsumer, message.into()));
            }
        }
        self.advance(state);
    }

    /// Whether another answer has room.
    pub fn has_out_room(&self, state: &State) -> bool {
        self.options.pace == Pace::RealTime || state.output.has_room()
    }

    /// Moves what waits on as far as it goes: events that no frame is before can be fetched, a
    /// frame that is first is encoded once the last one was fetched.
    fn advance(self: &Arc<Self>, state: &mut State) {
        let output = &mut state.output;
        let mut moved = false;
        while let Some(front) = output.waiting.front() {
            let is_frame = matches!(front, Out::Frame { .. });
            if is_frame {
                if self.options.transport == Transport::Pcm {
                    // Handed out on fetching; see `fetch`.
                    moved = true;
                    break;
                }
                let encoded = output
                    .ready
                    .iter()
                    .any(|(e, _)| matches!(e, Event::Pages { .. }));
                if !output.encoding && !encoded {
                    output.encoding = true;
                    let this = self.clone();
                    self.engine.spawn_opus(move || this.encode());
                }
                break;
            }
            if output.encoding {
                break;
            }
            if let Some(Out::Event(event)) = output.waiting.pop_front() {
                output.ready.push_back((event, None));
                moved = true;
            }
        }
        if moved {
            self.notify(state);
        }
    }

    /// Encodes the answer that is first, on a thread of the Opus pool.
    fn encode(self: &Arc<Self>) {
        let mut state = self.lock();
        let connection = state.connection;
        let Some(Out::Frame { .. }) = state.output.waiting.front() else {
            state.output.encoding = false;
            self.advance(&mut state);
            return;
        };
        let Some(Out::Frame {
            number,
            pcm,
            timing,
        }) = state.output.waiting.pop_front()
        else {
            return;
        };
        state.output.frames -= 1;
        let encoder = state.output.encoder.take();
        drop(state);
        let started = Instant::now();
        let result = encoder
            .map_or_else(|| OpusWriter::new(self.engine.opus_complexity), Ok)
            .and_then(|mut encoder| Ok((encoder.write(&pcm)?, encoder)));
        let seconds = started.elapsed().as_secs_f64();
        self.engine.stats().stage("opus_encode", seconds);

        let mut state = self.lock();
        state.output.encoding = false;
        if state.connection == connection {
            match result {
                Ok((bytes, encoder)) => {
                    state.output.encoder = Some(encoder);
                    let event = Event::Pages {
                        frame: number,
                        bytes,
                    };
                    state.output.ready.push_back((event, Some(timing)));
                    self.notify(&state);
                }
                Err(error) => self.close_with(&mut state, EndReason::Error, error.to_string()),
            }
        }
        self.advance(&mut state);
    }

    /// What is ready for the caller.
    pub fn fetch(self: &Arc<Self>, state: &mut State) -> Vec<Event> {
        let output = &mut state.output;
        if self.options.transport == Transport::Pcm {
            while let Some(out) = output.waiting.pop_front() {
                match out {
                    Out::Event(event) => output.ready.push_back((event, None)),
                    Out::Frame {
                        number,
                        pcm,
                        timing,
                    } => {
                        output.frames -= 1;
                        let event = Event::Audio { frame: number, pcm };
                        output.ready.push_back((event, Some(timing)));
                    }
                }
            }
        }
        let ready = std::mem::take(&mut output.ready);
        if ready.is_empty() {
            return Vec::new();
        }
        let now = self.engine.clock.now();
        let mut took_audio = false;
        {
            let mut stats = self.engine.stats();
            for (arrived, step) in ready.iter().filter_map(|(_, timing)| *timing) {
                took_audio = true;
                if self.options.pace == Pace::RealTime {
                    stats.latency.record(now - arrived);
                    stats.overhead.record((now - arrived - step).max(0.0));
                }
            }
        }
        if took_audio {
            output.dropping_since = None;
        }
        if self.options.pace == Pace::None {
            // It may have been full.
            self.engine.wake();
        }
        self.advance(state);
        ready.into_iter().map(|(event, _)| event).collect()
    }
}

//! A step: who takes part, what they give it, and what becomes of what it gives.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch_delay::{self, Next};
use super::core::{Core, DEFECT};
use super::pace::{FRAME, Pace};
use super::reason::EndReason;
use super::session::{Event, Phase, SessionInner};
use super::stats::StepRecord;
use crate::pipeline::{Frame, FrameIn, FrameOut};

/// A step that took so long, in seconds, was a stall: late answers would come in a burst.
const STALL: f64 = 2.0 * FRAME;
/// Steps that usually take more than this, for two seconds, end the newest session.
const SHED: f64 = FRAME;

/// One row of a step.
pub(super) struct Row {
    slot: usize,
    session: Arc<SessionInner>,
    frame: Frame,
    /// When its last sample came.
    arrived: f64,
}

impl Core {
    /// Until when to wait for callers whose frames are about to come, if that is worth it.
    pub fn delay_until(&self, now: f64) -> Option<f64> {
        let used = self.admission.used();
        let all = self.times.cost(used).unwrap_or(0.0);
        let longest = batch_delay::longest(self.times.fixed(), all);
        if longest == 0.0 || used < 2 {
            return None;
        }
        let callers = self.active.iter().flatten().filter_map(|session| {
            let mut state = session.lock();
            if state.held_until.is_some() || state.paused || state.closing.is_some() {
                return None;
            }
            match state.input.frames.front().map(|frame| frame.arrived) {
                Some(since) => state.input.pacer.may_step(now).then_some(Next::Here(since)),
                None if state.input.finished || session.options.pace == Pace::None => None,
                None if state.input.decoding() => Some(Next::Decoding),
                None => Some(Next::After(state.input.pacer.last_input())),
            }
        });
        batch_delay::until(now, self.last_step.1, longest, callers)
    }

    /// A frame of every session that has one and may be stepped.
    pub fn gather(&mut self, now: f64, next: &mut f64) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut silence = 0;
        for (slot, session) in self.active.iter().enumerate() {
            let Some(session) = session else { continue };
            let mut state = session.lock();
            let quiet = state.held_until.is_some() || state.paused || state.closing.is_some();
            if quiet || !session.has_out_room(&state) {
                continue;
            }
            // Input may be finished while its last messages are still being decoded.
            if state.input.frames.is_empty()
                && state.input.finished
                && !session.flush_input(&mut state)
            {
                continue;
            }
            let silent = state.input.frames.is_empty();
            let tail = silent && state.input.finished;
            let clocked = silent && session.options.server_clock && !state.input.finished;
            if clocked && !state.input.pacer.silence_due(now) {
                *next = next.min(state.input.pacer.next_silence());
                continue;
            }
            if silent && !tail && !clocked {
                continue;
            }
            if !state.input.pacer.may_step(now) {
                *next = next.min(state.input.pacer.next_step());
                continue;
            }
            let (frame, arrived) = match state.input.frames.pop_front() {
                Some(waiting) => (waiting.frame, waiting.arrived),
                None => (Frame::silence(self.engine.input), now),
            };
            if clocked {
                state.input.pacer.silence(now);
                state.input.frames_in += 1;
                silence += 1;
            }
            let waiting = state.input.frames.len();
            self.engine.stats().backlog.record(waiting as f64);
            let busy = self.last_step.1.min(now) - self.last_step.0.max(arrived);
            state
                .input
                .pacer
                .stepped(now, now - arrived - busy.max(0.0));
            state.input.stepped += 1;
            if session.options.pace == Pace::None {
                // Somebody may wait for room.
                session.notify(&state);
            }
            drop(state);
            rows.push(Row {
                slot,
                session: session.clone(),
                frame,
                arrived,
            });
        }
        self.engine.stats().inserted_silence += silence;
        rows
    }

    /// Steps `rows`, and hands out what the step gave.
    pub fn step(&mut self, rows: Vec<Row>) {
        let inputs: Vec<(usize, FrameIn<'_>)> = rows
            .iter()
            .map(|row| (row.slot, row.frame.as_input()))
            .collect();
        let started = self.engine.clock.now();
        let pipeline = &mut self.pipeline;
        let outcome = catch_unwind(AssertUnwindSafe(|| pipeline.step(&inputs)));
        let now = self.engine.clock.now();
        let seconds = now - started;
        self.last_step = (started, now);
        self.engine.beat();
        match outcome {
            Ok(Ok(answers)) => {
                self.times.record(now, rows.len(), seconds);
                let mut stats = self.engine.stats();
                stats.stepped(StepRecord {
                    at: now,
                    batch: rows.len(),
                    seconds,
                });
                for (name, seconds) in self.pipeline.stage_seconds() {
                    stats.stage(name, seconds);
                }
                stats.frames_out += answers.iter().filter(|a| !a.is_empty()).count() as u64;
                drop(stats);
                for (row, answer) in rows.iter().zip(answers) {
                    self.answer(row, answer, seconds);
                }
            }
            Ok(Err(error)) => {
                rows.iter()
                    .for_each(|row| Self::fail(row, error.to_string()));
                self.note_loss(&error);
            }
            Err(_) => self.panicked(),
        }
        self.state_bytes = self.pipeline.state_bytes();
        self.gpu_bytes = self.pipeline.gpu_bytes();
        if seconds > STALL {
            self.after_stall();
        }
        self.shed(now);
    }

    /// Hands out what one row gave.
    fn answer(&self, row: &Row, answer: FrameOut, seconds: f64) {
        if let Some(fault) = answer.fault {
            return Self::fail(row, fault);
        }
        let mut state = row.session.lock();
        // Who was ended or cut off meanwhile gets nothing more.
        if state.phase != Phase::Active(row.slot) || state.held_until.is_some() {
            return;
        }
        // The model's delays still hold the answer back.
        if answer.is_empty() {
            return;
        }
        let frame = state.output.frames_out;
        let timing = (row.arrived, seconds);
        // What silence fetched beyond the last answer belongs to no input.
        let last = state.input.frames_in + self.pipeline.tail() as u64;
        if state.input.finished && frame + state.input.dropped >= last {
            return;
        }
        let word = answer.text.filter(|token| self.pipeline.is_word(*token));
        for suspicion in state.watch.answer(answer.audio.as_deref(), word) {
            self.engine.stats().suspect(suspicion);
        }
        match answer.audio {
            Some(pcm) => row.session.answer(&mut state, pcm, timing),
            // Text and pauses are answers, too.
            None => state.output.frames_out += 1,
        }
        if let Some(token) = answer.text {
            row.session.post(&mut state, Event::Text { frame, token });
        }
        if !answer.pauses.is_empty() {
            let probabilities = answer.pauses;
            let event = Event::Pause {
                frame,
                probabilities,
            };
            row.session.post(&mut state, event);
        }
    }

    fn fail(row: &Row, message: String) {
        let mut state = row.session.lock();
        row.session
            .close_with(&mut state, EndReason::Error, message);
    }

    /// A panic in a step: nobody's state can be trusted any more.
    fn panicked(&mut self) {
        self.engine.stats().panics += 1;
        for session in self.active.iter().flatten() {
            let mut state = session.lock();
            session.close_with(&mut state, EndReason::Error, DEFECT.into());
        }
        if self.pipeline.renew().is_err() {
            self.engine.closed.store(true, Ordering::SeqCst);
        }
    }

    fn after_stall(&mut self) {
        let mut dropped = 0;
        for session in self.active.iter().flatten() {
            let mut state = session.lock();
            let cut = state.input.pacer.stalled(state.input.frames.len());
            state.input.frames.drain(..cut);
            state.input.dropped += cut as u64;
            dropped += cut as u64;
        }
        self.engine.stats().dropped_input += dropped;
    }

    /// Steps have taken too long for two seconds: the newest session goes, but never the last.
    fn shed(&mut self, now: f64) {
        let median = self.times.recent_median(now);
        if median.is_none_or(|seconds| seconds <= SHED) || self.admission.used() < 2 {
            return;
        }
        let newest = self
            .active
            .iter()
            .flatten()
            .map(|session| (session.lock().started, session))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, session)) = newest {
            let mut state = session.lock();
            let message = "the server has become too slow for so many conversations; try later";
            session.close_with(&mut state, EndReason::Shed, message.into());
        }
        self.times.forget_recent();
    }
}

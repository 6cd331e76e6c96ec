//! The engine's work, one turn at a time. Reads only the clock it was given, so that a test can
//! turn both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::admission::{Admission, Decision, Limits, Refusal};
use super::pace::Pacer;
use super::readiness::Readiness;
use super::reason::EndReason;
use super::registry::Registry;
use super::session::{Event, Phase, SessionInner, State};
use super::shared::EngineShared;
use super::step_times::StepTimes;
use crate::error::{Error, Result};
use crate::pipeline::{Frame, FrameIn, GpuBytes, Pipeline, Start};

/// Longest sleep, in seconds: limits of time are kept to this.
const NAP: f64 = 0.1;
/// Seconds that measuring steps may take at the start.
const WARM_UP: f64 = 10.0;
/// Frames of silence at most that fetch the last answers of a session whose input is over.
const TAIL: u64 = 64;
/// The message of sessions that end for a defect.
pub(super) const DEFECT: &str =
    "internal error in the engine; this is a defect of kaiwa, please report it";

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    /// A step: there may be more to do at once.
    Stepped,
    /// Nothing to do before this time, unless the thread is woken.
    Idle(f64),
    /// The engine is closed and empty.
    Closed,
}

/// The state of the engine's thread.
pub(super) struct Core {
    pub pipeline: Box<dyn Pipeline>,
    pub engine: Arc<EngineShared>,
    pub registry: Arc<Registry>,
    pub admission: Admission,
    pub times: StepTimes,
    /// By slot.
    pub active: Vec<Option<Arc<SessionInner>>>,
    queued: Vec<Arc<SessionInner>>,
    pub state_bytes: usize,
    pub gpu_bytes: GpuBytes,
    /// When the last step began and ended.
    pub last_step: (f64, f64),
    /// What a device said that has failed for good: the engine is over.
    pub lost: Option<String>,
    /// Why the engine is closed, if it has failed and was not asked to close.
    failure: Option<String>,
}

impl Core {
    pub fn new(pipeline: Box<dyn Pipeline>, engine: Arc<EngineShared>, limits: Limits) -> Self {
        let slots = pipeline.slots();
        let core = Self {
            admission: Admission::new(slots, limits),
            times: StepTimes::new(slots),
            active: vec![None; slots],
            queued: Vec::new(),
            state_bytes: pipeline.state_bytes(),
            gpu_bytes: pipeline.gpu_bytes(),
            last_step: (0.0, 0.0),
            lost: None,
            failure: None,
            pipeline,
            engine,
            registry: Arc::default(),
        };
        core.publish();
        core
    }

    /// Steps with 1, 2, 4, ... rows, so that admission knows what they take, and all memory has
    /// been touched. For before the first session.
    pub fn warm_up(&mut self) -> Result<()> {
        let slots = self.active.len();
        let began = self.engine.clock.now();
        let mut sizes: Vec<usize> = (0..).map(|n| 1 << n).take_while(|n| *n < slots).collect();
        sizes.push(slots);
        for size in sizes {
            let silence = Frame::silence(self.engine.input);
            let rows: Vec<(usize, FrameIn<'_>)> =
                (0..size).map(|slot| (slot, silence.as_input())).collect();
            for (slot, _) in &rows {
                self.pipeline.begin(*slot, &Start::default())?;
            }
            let mut least = f64::INFINITY;
            for repeat in 0..4 {
                let started = self.engine.clock.now();
                self.pipeline.step(&rows)?;
                let now = self.engine.clock.now();
                // The first step of a conversation is two in one.
                if repeat > 0 {
                    least = least.min(now - started);
                }
                self.engine.beat();
            }
            self.times.measure(size, least);
            if self.engine.clock.now() - began > WARM_UP {
                break;
            }
        }
        for slot in 0..slots {
            self.pipeline.begin(slot, &Start::default())?;
        }
        self.publish();
        Ok(())
    }

    /// A turn; a panic outside a step ends every session and closes the engine, for nothing that
    /// is known about slots and sessions can be trusted any more.
    pub fn guarded_turn(&mut self) -> Turn {
        match catch_unwind(AssertUnwindSafe(|| self.turn())) {
            Ok(turn) => match self.lost.take() {
                Some(message) => self.give_up(&message),
                None => turn,
            },
            Err(_) => {
                self.engine.stats().panics += 1;
                self.give_up(DEFECT)
            }
        }
    }

    /// Ends every session with an error, and the engine with them.
    fn give_up(&mut self, message: &str) -> Turn {
        self.failure = Some(message.to_owned());
        // Before anybody learns of the end of a call: whoever asks then is told why.
        self.publish();
        self.engine.closed.store(true, Ordering::SeqCst);
        self.close_all(EndReason::Error, message);
        self.publish();
        Turn::Closed
    }

    /// Lets callers in and out, then steps every session that has a frame.
    pub fn turn(&mut self) -> Turn {
        self.engine.beat();
        let now = self.engine.clock.now();
        if self.engine.closed.load(Ordering::SeqCst) {
            self.close_all(EndReason::Closed, "");
            self.publish();
            return Turn::Closed;
        }
        if self.engine.draining.load(Ordering::SeqCst) {
            self.admission.drain();
        }
        self.times.forget_old(now);
        self.sweep(now);
        self.admit(now);
        self.publish();
        let mut next = now + NAP;
        if let Some(deadline) = self.admission.next_deadline() {
            next = next.min(deadline);
        }
        if let Some(until) = self.delay_until(now) {
            return Turn::Idle(until);
        }
        let rows = self.gather(now, &mut next);
        if rows.is_empty() {
            return Turn::Idle(next);
        }
        self.step(rows);
        self.publish();
        Turn::Stepped
    }

    /// Ends what is to end, and frees slots.
    fn sweep(&mut self, now: f64) {
        for slot in 0..self.active.len() {
            let Some(session) = self.active[slot].clone() else {
                continue;
            };
            let mut state = session.lock();
            let limit = |limit: Option<f64>, since: f64| limit.is_some_and(|s| now - since >= s);
            let options = &session.options;
            let verdict = if let Some(closing) = state.closing.clone() {
                Some(closing)
            } else if limit(options.max_seconds, state.started)
                || options.max_frames.is_some_and(|n| state.input.stepped >= n)
            {
                Some((
                    EndReason::Expired,
                    "the time limit of the conversation is reached; begin a new one".into(),
                ))
            } else if state.held_until.is_some_and(|until| now >= until) {
                Some((
                    EndReason::Lost,
                    "the connection was lost and not taken up again; call again".into(),
                ))
            } else if state.held_until.is_none()
                && !state.paused
                && !state.input.finished
                && limit(options.idle_seconds, state.last_input)
            {
                Some((
                    EndReason::Idle,
                    "no audio came for too long; call again".into(),
                ))
            } else if state.input.finished
                && session.flush_input(&mut state)
                && self.answered(&state)
            {
                Some((EndReason::Finished, String::new()))
            } else {
                None
            };
            if let Some((reason, message)) = verdict {
                session.end(&mut state, reason, message);
                drop(state);
                self.free(slot, &session);
            }
        }
        // Those who wait and have gone.
        let gone: Vec<Arc<SessionInner>> = self
            .queued
            .iter()
            .filter(|s| s.lock().closing.is_some())
            .cloned()
            .collect();
        for session in gone {
            self.admission.cancel(session.id);
            self.queued.retain(|s| s.id != session.id);
            self.registry.remove(session.id);
            let mut state = session.lock();
            if let Some((reason, message)) = state.closing.clone() {
                session.end(&mut state, reason, message);
            }
        }
    }

    /// Whether all input has its answer. What the model's delays hold back is fetched with
    /// silence, and so is what it tells later of the last frames (its tail); a model that never
    /// answers is not waited for.
    fn answered(&self, state: &State) -> bool {
        let (delay, tail) = (self.pipeline.delay() as u64, self.pipeline.tail() as u64);
        let silence = state
            .input
            .stepped
            .saturating_sub(state.input.frames_in - state.input.dropped);
        state.input.frames.is_empty()
            && (state.output.frames_out + state.input.dropped >= state.input.frames_in + tail
                || silence >= TAIL.max(2 * delay).max(tail))
    }

    fn free(&mut self, slot: usize, session: &SessionInner) {
        self.active[slot] = None;
        self.admission.release(slot);
        self.registry.remove(session.id);
    }

    fn admit(&mut self, now: f64) {
        for session in self.registry.take_requests() {
            let id = session.id;
            let until = now + session.options.queue_seconds;
            self.queued.push(session);
            let decision = self.admission.request(id, now, until, &self.times);
            self.decide(id, decision, now);
        }
        for (id, decision) in self.admission.poll(now, &self.times) {
            self.decide(id, decision, now);
        }
    }

    fn decide(&mut self, id: u64, decision: Decision, now: f64) {
        let Some(at) = self.queued.iter().position(|s| s.id == id) else {
            return;
        };
        let session = self.queued[at].clone();
        let mut state = session.lock();
        match decision {
            Decision::Wait(position) => {
                state.phase = Phase::Queued(position);
                let name = "queued";
                session.post(&mut state, Event::State { name, position });
            }
            Decision::Refuse(refusal) => {
                let reason = refusal.reason();
                self.queued.remove(at);
                self.registry.remove(id);
                let message = match refusal {
                    Refusal::Draining => "the server is about to stop; try again in a moment",
                    Refusal::Overloaded => {
                        "the server has no time for another conversation; try later"
                    }
                    Refusal::Full => "all conversations are taken; try later",
                };
                session.end(&mut state, reason, message.into());
            }
            Decision::Admit(slot) => {
                self.queued.remove(at);
                match self.pipeline.begin(slot, &session.options.start) {
                    Ok(()) => {
                        state.phase = Phase::Active(slot);
                        state.started = now;
                        state.last_input = now;
                        state.input.pacer = Pacer::new(session.options.pace, now);
                        self.active[slot] = Some(session.clone());
                        self.engine.stats().wait.record(now - state.opened);
                        session.post(&mut state, Event::state("active"));
                    }
                    Err(error) => {
                        session.end(&mut state, EndReason::Error, error.to_string());
                        drop(state);
                        self.free(slot, &session);
                        self.note_loss(&error);
                    }
                }
            }
        }
    }

    /// Remembers an error after which no step can succeed.
    pub fn note_loss(&mut self, error: &Error) {
        if matches!(error, Error::DeviceLost { .. }) {
            self.lost = Some(error.to_string());
        }
    }

    /// Ends every session there is, wherever it stands.
    fn close_all(&mut self, reason: EndReason, message: &str) {
        for session in self.registry.close() {
            session.end(&mut session.lock(), reason, message.into());
        }
        for session in self.queued.drain(..) {
            self.admission.cancel(session.id);
        }
        for slot in 0..self.active.len() {
            self.active[slot] = None;
            self.admission.release(slot);
        }
    }

    fn publish(&self) {
        let used = self.admission.used();
        let state = match self.admission.room(&self.times) {
            _ if self.failure.is_some() => "failed",
            _ if self.engine.closed.load(Ordering::SeqCst) => "closed",
            Ok(()) => "ready",
            Err(refusal) => refusal.reason().as_str(),
        };
        *self.engine.readiness() = Readiness {
            state,
            slots_total: self.active.len(),
            slots_used: used,
            queue: self.admission.waiting(),
            step_p95: self.times.predict(used.max(1)).unwrap_or(0.0),
            predicted: self.times.predict(used + 1).unwrap_or(0.0),
            state_bytes: self.state_bytes,
            gpu_bytes: self.gpu_bytes,
            failure: self.failure.clone(),
        };
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
#[path = "core_tests/mod.rs"]
mod tests;

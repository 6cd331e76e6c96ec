//! The engine's work, one turn at a time. Reads only the clock it was given, so that a test can
//! turn both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::admission::{Admission, Decision, Limits, Refusal};
use super::hold::{self, Next};
use super::hub::{Hub, Readiness};
use super::pace::{FRAME, Pace, Pacer};
use super::pipeline::{Answer, FRAME_SIZE, Pipeline, Start};
use super::reason::EndReason;
use super::session::{Event, Phase, Shared};
use super::stats::StepRecord;
use super::step_times::StepTimes;
use crate::error::Result;

/// A step that took so long, in seconds, was a stall: late answers would come in a burst.
const STALL: f64 = 2.0 * FRAME;
/// Steps that usually take more than this, for two seconds, end the newest session.
const SHED: f64 = FRAME;
/// Longest sleep, in seconds: limits of time are kept to this.
const NAP: f64 = 0.1;
/// Seconds that measuring steps may take at the start.
const WARM_UP: f64 = 10.0;
/// Frames of silence at most that fetch the last answers of a session whose input is over.
const TAIL: u64 = 64;

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    /// A step: there may be more to do at once.
    Stepped,
    /// Nothing to do before this time, unless somebody rings.
    Idle(f64),
    /// The engine is closed and empty.
    Closed,
}

/// One row of a step.
struct Row {
    slot: usize,
    session: Arc<Shared>,
    pcm: Vec<f32>,
    arrived: f64,
}

/// The state of the engine's thread.
pub(super) struct Core {
    pipeline: Box<dyn Pipeline>,
    hub: Arc<Hub>,
    admission: Admission,
    times: StepTimes,
    /// By slot.
    active: Vec<Option<Arc<Shared>>>,
    queued: Vec<Arc<Shared>>,
    state_bytes: usize,
    /// When the last step began and ended.
    last_step: (f64, f64),
}

impl Core {
    pub fn new(pipeline: Box<dyn Pipeline>, hub: Arc<Hub>, limits: Limits) -> Self {
        let slots = pipeline.slots();
        let core = Self {
            admission: Admission::new(slots, limits),
            times: StepTimes::new(slots),
            active: vec![None; slots],
            queued: Vec::new(),
            state_bytes: pipeline.state_bytes(),
            last_step: (0.0, 0.0),
            pipeline,
            hub,
        };
        core.publish();
        core
    }

    /// Steps with 1, 2, 4, ... rows, so that admission knows what they take, and all memory has
    /// been touched. For before the first session.
    pub fn warm_up(&mut self) -> Result<()> {
        let slots = self.active.len();
        let began = self.hub.clock.now();
        let mut sizes: Vec<usize> = (0..).map(|n| 1 << n).take_while(|n| *n < slots).collect();
        sizes.push(slots);
        for size in sizes {
            let rows: Vec<usize> = (0..size).collect();
            for slot in &rows {
                self.pipeline.begin(*slot, &Start::default())?;
            }
            let mut least = f64::INFINITY;
            for repeat in 0..4 {
                let started = self.hub.clock.now();
                self.pipeline.step(&rows, &vec![0.0; size * FRAME_SIZE])?;
                let now = self.hub.clock.now();
                // The first step of a conversation is two in one.
                if repeat > 0 {
                    least = least.min(now - started);
                }
                self.hub.beat();
            }
            self.times.measure(size, least);
            if self.hub.clock.now() - began > WARM_UP {
                break;
            }
        }
        for slot in 0..slots {
            self.pipeline.begin(slot, &Start::default())?;
        }
        self.publish();
        Ok(())
    }

    /// Lets callers in and out, then steps every session that has a frame.
    pub fn turn(&mut self) -> Turn {
        self.hub.beat();
        let now = self.hub.clock.now();
        if self.hub.closed.load(Ordering::SeqCst) {
            self.close_all();
            self.publish();
            return Turn::Closed;
        }
        if self.hub.draining.load(Ordering::SeqCst) {
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
        if let Some(until) = self.hold(now) {
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
                || options.max_frames.is_some_and(|n| state.stepped >= n)
            {
                Some((
                    EndReason::Expired,
                    "the time limit of the conversation is reached".into(),
                ))
            } else if state.held_until.is_some_and(|until| now >= until) {
                Some((
                    EndReason::Lost,
                    "the connection was lost and not taken up again".into(),
                ))
            } else if state.held_until.is_none()
                && !state.paused
                && !state.finished
                && limit(options.idle_seconds, state.heard)
            {
                Some((EndReason::Idle, "no audio came for too long".into()))
            } else if state.finished
                && session.settle(&mut state)
                && Self::answered(&state, self.pipeline.delay())
            {
                Some((EndReason::Finished, String::new()))
            } else {
                None
            };
            if let Some((reason, message)) = verdict {
                session.end(&mut state, reason, message);
                drop(state);
                self.free(slot, &session, reason);
            }
        }
        // Those who wait and have gone.
        let gone: Vec<Arc<Shared>> = self
            .queued
            .iter()
            .filter(|s| s.lock().closing.is_some())
            .cloned()
            .collect();
        for session in gone {
            self.admission.cancel(session.id);
            self.queued.retain(|s| s.id != session.id);
            self.hub.forget(session.id);
            let mut state = session.lock();
            if let Some((reason, message)) = state.closing.clone() {
                session.end(&mut state, reason, message);
            }
        }
    }

    /// Whether all input has its answer. What the model's delays hold back is fetched with
    /// silence; a model that never answers is not waited for.
    fn answered(state: &super::session::State, delay: usize) -> bool {
        let silence = state
            .stepped
            .saturating_sub(state.frames_in - state.dropped_input);
        state.frames.is_empty()
            && (state.frames_out + state.dropped_input >= state.frames_in
                || silence >= TAIL.max(2 * delay as u64))
    }

    fn free(&mut self, slot: usize, session: &Shared, reason: EndReason) {
        self.active[slot] = None;
        self.admission.release(slot);
        self.hub.forget(session.id);
        let seconds = self.hub.clock.now() - session.lock().started;
        let mut stats = self.hub.stats();
        *stats.ended.entry(reason).or_default() += 1;
        stats.duration.record(seconds);
    }

    fn admit(&mut self, now: f64) {
        for session in self.hub.take_requests() {
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
                self.hub.forget(id);
                *self.hub.stats().rejected.entry(reason).or_default() += 1;
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
                        state.heard = now;
                        state.pacer = Pacer::new(session.options.pace, now);
                        self.active[slot] = Some(session.clone());
                        let mut stats = self.hub.stats();
                        stats.started += 1;
                        stats.wait.record(now - state.opened);
                        drop(stats);
                        let (name, position) = ("active", 0);
                        session.post(&mut state, Event::State { name, position });
                    }
                    Err(error) => {
                        session.end(&mut state, EndReason::Error, error.to_string());
                        drop(state);
                        self.free(slot, &session, EndReason::Error);
                    }
                }
            }
        }
    }

    /// Until when to wait for callers whose frames are about to come, if that is worth it.
    fn hold(&self, now: f64) -> Option<f64> {
        let used = self.admission.used();
        let patience = hold::patience(self.times.fixed(), self.times.cost(used).unwrap_or(0.0));
        if patience == 0.0 || used < 2 {
            return None;
        }
        let callers = self.active.iter().flatten().filter_map(|session| {
            let mut state = session.lock();
            if state.held_until.is_some() || state.paused || state.closing.is_some() {
                return None;
            }
            match state.frames.front().map(|frame| frame.arrived) {
                Some(since) => state.pacer.may_step(now).then_some(Next::Here(since)),
                None if state.finished || session.options.pace == Pace::None => None,
                None if state.decoding() => Some(Next::Decoding),
                None => Some(Next::After(state.pacer.heard())),
            }
        });
        hold::until(now, self.last_step.1, patience, callers)
    }

    /// A frame of every session that has one and may be stepped.
    fn gather(&mut self, now: f64, next: &mut f64) -> Vec<Row> {
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
            if state.frames.is_empty() && state.finished && !session.settle(&mut state) {
                continue;
            }
            let silent = state.frames.is_empty();
            let tail = silent && state.finished;
            let clocked = silent && session.options.server_clock && !state.finished;
            if clocked && !state.pacer.silence_due(now) {
                *next = next.min(state.pacer.next_silence());
                continue;
            }
            if silent && !tail && !clocked {
                continue;
            }
            if !state.pacer.may_step(now) {
                *next = next.min(state.pacer.next_step());
                continue;
            }
            let (pcm, arrived) = match state.frames.pop_front() {
                Some(frame) => (frame.pcm, frame.arrived),
                None => (vec![0.0; FRAME_SIZE], now),
            };
            if clocked {
                state.pacer.silence(now);
                state.frames_in += 1;
                silence += 1;
            }
            let waiting = state.frames.len();
            self.hub.stats().backlog.record(waiting as f64);
            let busy = self.last_step.1.min(now) - self.last_step.0.max(arrived);
            state.pacer.stepped(now, now - arrived - busy.max(0.0));
            state.stepped += 1;
            if session.options.pace == Pace::None {
                // Somebody may wait for room.
                session.tell(&state);
            }
            drop(state);
            rows.push(Row {
                slot,
                session: session.clone(),
                pcm,
                arrived,
            });
        }
        self.hub.stats().inserted_silence += silence;
        rows
    }

    fn step(&mut self, rows: Vec<Row>) {
        let slots: Vec<usize> = rows.iter().map(|r| r.slot).collect();
        let pcm: Vec<f32> = rows.iter().flat_map(|r| r.pcm.iter().copied()).collect();
        let started = self.hub.clock.now();
        let pipeline = &mut self.pipeline;
        let outcome = catch_unwind(AssertUnwindSafe(|| pipeline.step(&slots, &pcm)));
        let now = self.hub.clock.now();
        let seconds = now - started;
        self.last_step = (started, now);
        self.hub.beat();
        match outcome {
            Ok(Ok(answers)) => {
                self.times.record(now, rows.len(), seconds);
                let mut stats = self.hub.stats();
                stats.stepped(StepRecord {
                    at: now,
                    batch: rows.len(),
                    seconds,
                });
                for (name, seconds) in self.pipeline.stage_seconds() {
                    stats.stage(name, seconds);
                }
                stats.frames_out += answers.iter().filter(|a| a.audio.is_some()).count() as u64;
                drop(stats);
                for (row, answer) in rows.iter().zip(answers) {
                    self.answer(row, answer, seconds);
                }
            }
            Ok(Err(error)) => rows
                .iter()
                .for_each(|row| Self::fail(row, error.to_string())),
            Err(_) => self.panicked(),
        }
        self.state_bytes = self.pipeline.state_bytes();
        if seconds > STALL {
            self.after_stall();
        }
        self.shed(now);
    }

    /// Hands out what one row gave.
    fn answer(&self, row: &Row, answer: Answer, seconds: f64) {
        if let Some(fault) = answer.fault {
            return Self::fail(row, fault);
        }
        let mut state = row.session.lock();
        // Who was ended or cut off meanwhile gets nothing more.
        if state.phase != Phase::Active(row.slot) || state.held_until.is_some() {
            return;
        }
        let Some(pcm) = answer.audio else { return };
        let frame = state.frames_out;
        let timing = (row.arrived, seconds);
        // What silence fetched beyond the last answer belongs to no input.
        if state.finished && frame + state.dropped_input >= state.frames_in {
            return;
        }
        row.session.answer(&mut state, pcm, timing);
        if answer.text >= 0 {
            let token = answer.text;
            row.session.post(&mut state, Event::Text { frame, token });
        }
    }

    fn fail(row: &Row, message: String) {
        let mut state = row.session.lock();
        row.session
            .close_with(&mut state, EndReason::Error, message);
    }

    /// A panic in a step: nobody's state can be trusted any more.
    fn panicked(&mut self) {
        self.hub.stats().panics += 1;
        let message = "internal error in a step; this is a defect of kaiwa, please report it";
        for session in self.active.iter().flatten() {
            let mut state = session.lock();
            session.close_with(&mut state, EndReason::Error, message.into());
        }
        if self.pipeline.renew().is_err() {
            self.hub.closed.store(true, Ordering::SeqCst);
        }
    }

    fn after_stall(&mut self) {
        let mut dropped = 0;
        for session in self.active.iter().flatten() {
            let mut state = session.lock();
            let cut = state.pacer.stalled(state.frames.len());
            state.frames.drain(..cut);
            state.dropped_input += cut as u64;
            dropped += cut as u64;
        }
        self.hub.stats().dropped_input += dropped;
    }

    /// Steps have taken too long for two seconds: the newest session goes, but never the last.
    fn shed(&mut self, now: f64) {
        let usual = self.times.recent_median(now);
        if usual.is_none_or(|seconds| seconds <= SHED) || self.admission.used() < 2 {
            return;
        }
        let newest = self
            .active
            .iter()
            .flatten()
            .max_by(|a, b| a.lock_started().total_cmp(&b.lock_started()));
        if let Some(session) = newest {
            let mut state = session.lock();
            let message = "the server has become too slow for so many conversations; try later";
            session.close_with(&mut state, EndReason::Shed, message.into());
        }
        self.times.forget_recent();
    }

    fn close_all(&mut self) {
        let requests = self.hub.take_requests();
        for session in self.queued.drain(..).chain(requests) {
            session.end(&mut session.lock(), EndReason::Closed, String::new());
            self.hub.forget(session.id);
        }
        for slot in 0..self.active.len() {
            if let Some(session) = self.active[slot].clone() {
                session.end(&mut session.lock(), EndReason::Closed, String::new());
                self.free(slot, &session, EndReason::Closed);
            }
        }
    }

    fn publish(&self) {
        let used = self.admission.used();
        let state = match self.admission.room(&self.times) {
            _ if self.hub.closed.load(Ordering::SeqCst) => "closed",
            Ok(()) => "ready",
            Err(refusal) => refusal.reason().as_str(),
        };
        *self.hub.readiness() = Readiness {
            state,
            slots_total: self.active.len(),
            slots_used: used,
            queue: self.admission.waiting(),
            step_p95: self.times.predict(used.max(1)).unwrap_or(0.0),
            predicted: self.times.predict(used + 1).unwrap_or(0.0),
            state_bytes: self.state_bytes,
        };
    }
}

impl Shared {
    fn lock_started(&self) -> f64 {
        self.lock().started
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
#[path = "core_tests.rs"]
mod tests;

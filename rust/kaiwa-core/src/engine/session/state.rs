//! What the engine's thread, the Opus workers and the caller know about one session.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::input_queue::InputQueue;
use super::output_queue::OutputQueue;
use super::output_watch::OutputWatch;
use super::{Event, SessionOptions};
use crate::engine::EndReason;
use crate::engine::notifier::Notifier;
use crate::engine::shared::EngineShared;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Phase {
    /// With this place in the queue.
    Queued(usize),
    /// In this slot.
    Active(usize),
    Ended,
}

pub(in crate::engine) struct State {
    pub phase: Phase,
    /// Its connection is lost; at this time the slot is freed.
    pub held_until: Option<f64>,
    pub paused: bool,
    /// When the session was asked for, got its slot, and was last sent something.
    pub opened: f64,
    pub started: f64,
    pub last_input: f64,
    pub input: InputQueue,
    pub output: OutputQueue,
    pub watch: OutputWatch,
    /// The caller wants to end, or the engine has ended it and its slot is still to be freed.
    pub closing: Option<(EndReason, String)>,
    /// Counts connections: what belongs to a former one is thrown away.
    pub connection: u64,
    pub notifier: Option<Arc<Notifier>>,
}

/// A session as the engine's thread, the Opus workers and its handle share it.
pub(in crate::engine) struct SessionInner {
    pub id: u64,
    pub options: SessionOptions,
    pub engine: Arc<EngineShared>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

impl SessionInner {
    pub fn new(
        id: u64,
        engine: Arc<EngineShared>,
        options: SessionOptions,
        notifier: Option<Arc<Notifier>>,
    ) -> Arc<Self> {
        let now = engine.clock.now();
        let state = State {
            phase: Phase::Queued(0),
            held_until: None,
            paused: false,
            opened: now,
            started: now,
            last_input: now,
            input: InputQueue::new(options.pace, now),
            output: OutputQueue::default(),
            watch: OutputWatch::default(),
            closing: None,
            connection: 0,
            notifier,
        };
        Arc::new(Self {
            id,
            options,
            engine,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the caller that something changed.
    pub fn notify(&self, state: &State) {
        self.changed.notify_all();
        if let Some(notifier) = &state.notifier {
            notifier.notify(self.id);
        }
    }

    /// Asks the engine to end this session; the first reason counts.
    pub fn close_with(&self, state: &mut State, reason: EndReason, message: String) {
        if state.closing.is_none() && state.phase != Phase::Ended {
            state.closing = Some((reason, message));
            self.engine.wake();
        }
    }

    /// The session is over: nothing more is taken in or made.
    pub fn end(self: &Arc<Self>, state: &mut State, reason: EndReason, message: String) {
        if state.phase == Phase::Ended {
            return;
        }
        state.phase = Phase::Ended;
        state.input.clear();
        self.post(state, Event::End { reason, message });
        self.notify(state);
    }

    /// Throws away what belongs to a connection that is lost.
    pub fn disconnect(&self, state: &mut State) {
        state.connection += 1;
        self.drop_input(state);
        state.input.disconnect();
        state.output.disconnect();
    }
}

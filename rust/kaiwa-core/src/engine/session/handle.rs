//! A caller's hold on a session.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Phase, SessionInner, State};
use super::{Event, SessionInfo, Transport};
use crate::audio::samples;
use crate::engine::EndReason;
use crate::engine::notifier::Notifier;
use crate::engine::pace::{Pace, Pacer};
use crate::error::{Error, Result};
use crate::pipeline::{Frame, InputKind};

/// A caller's hold on a session. The session ends when this is dropped.
pub struct Session(pub(in crate::engine) Arc<SessionInner>);

impl Session {
    /// Its number, for logs and lists.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Takes samples: 24 kHz mono, finite, any number. Of a call, those from before the slot are
    /// lost; those of a file wait for it.
    ///
    /// # Errors
    /// [`Error::Sample`]; [`Error::OptionValue`] for a session whose transport is Opus or whose
    /// pipeline takes text; [`Error::SessionEnded`]. Nothing has changed then.
    pub fn send_pcm(&self, pcm: &[f32]) -> Result<()> {
        self.takes(InputKind::Audio, "send_text")?;
        if self.0.options.transport != Transport::Pcm {
            return Err(Error::OptionValue {
                name: "transport",
                got: "opus".into(),
                allowed: "send_bytes, or a session with transport pcm".into(),
            });
        }
        samples::check("pcm", 0, pcm)?;
        let now = self.0.engine.clock.now();
        let mut state = self.open_state()?;
        if self.0.accepts_input(&state) {
            self.0.accept_audio(&mut state, pcm, now);
        }
        Ok(())
    }

    /// Takes bytes of an Ogg/Opus stream, cut anywhere. Never fails for what they hold.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a session whose transport is PCM or whose pipeline takes text;
    /// [`Error::SessionEnded`].
    pub fn send_bytes(&self, bytes: Vec<u8>) -> Result<()> {
        self.takes(InputKind::Audio, "send_text")?;
        if self.0.options.transport != Transport::Opus {
            return Err(Error::OptionValue {
                name: "transport",
                got: "pcm".into(),
                allowed: "send_pcm, or a session with transport opus".into(),
            });
        }
        let now = self.0.engine.clock.now();
        let mut state = self.open_state()?;
        if self.0.accepts_input(&state) && !bytes.is_empty() {
            self.0.accept_encoded(&mut state, bytes, now);
        }
        Ok(())
    }

    /// Takes the text tokens of one frame; none are a frame of saying nothing.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a session whose pipeline takes audio; [`Error::SessionEnded`].
    pub fn send_text(&self, tokens: Vec<i32>) -> Result<()> {
        self.takes(InputKind::Text, "send_pcm or send_bytes")?;
        let now = self.0.engine.clock.now();
        let mut state = self.open_state()?;
        if self.0.accepts_input(&state) {
            let frame = std::iter::once(Frame::Text(tokens));
            self.0.accept_frames(&mut state, frame, now);
        }
        Ok(())
    }

    /// Refuses input of another kind than the pipeline takes.
    fn takes(&self, kind: InputKind, instead: &str) -> Result<()> {
        if self.0.engine.input == kind {
            return Ok(());
        }
        Err(Error::OptionValue {
            name: "input",
            got: format!("{kind:?}").to_lowercase(),
            allowed: format!("{instead}: this model takes the other kind of input"),
        })
    }

    /// Whether a caller that is not paced should go on sending.
    pub fn has_room(&self) -> bool {
        let state = self.0.lock();
        let counts = match state.phase {
            Phase::Active(_) => true,
            Phase::Queued(_) => self.0.options.pace == Pace::None,
            Phase::Ended => false,
        };
        !counts || state.input.has_room()
    }

    /// Messages so far that held nothing that is known.
    pub fn bad_messages(&self) -> u64 {
        self.0.lock().input.bad_messages
    }

    /// Input is over: what is left is answered, then the session ends (`finished`).
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.input.finished = true;
        self.0.engine.wake();
    }

    /// Throws away all that was sent and not stepped yet; what is sent from now on is heard. Nothing
    /// waits before the slot, and after the end.
    pub fn clear_input(&self) {
        let mut state = self.0.lock();
        if matches!(state.phase, Phase::Active(_)) {
            self.0.drop_input(&mut state);
            if self.0.options.pace == Pace::None {
                // Somebody may wait for room.
                self.0.notify(&state);
            }
            self.0.engine.wake();
        }
    }

    /// Stops (or goes on) listening; the conversation stands still meanwhile, the time limit
    /// does not.
    pub fn pause(&self, paused: bool) {
        let mut state = self.0.lock();
        let now = self.0.engine.clock.now();
        if state.paused != paused && state.phase != Phase::Ended {
            state.paused = paused;
            state.last_input = now;
            // In a call, what waits would be stale afterwards; of a file nothing is lost.
            if paused && self.0.options.pace == Pace::RealTime {
                self.0.drop_input(&mut state);
            }
            state.input.pacer = Pacer::new(self.0.options.pace, now);
            let name = if paused { "paused" } else { "active" };
            self.0.post(&mut state, Event::state(name));
        }
    }

    /// The connection is lost: the slot is kept for so many seconds, answers are thrown away.
    /// False if there is no slot to keep.
    pub fn hold(&self, seconds: f64) -> bool {
        let mut state = self.0.lock();
        if !matches!(state.phase, Phase::Active(_)) || state.closing.is_some() {
            return false;
        }
        state.held_until = Some(self.0.engine.clock.now() + seconds);
        self.0.disconnect(&mut state);
        self.0.engine.wake();
        true
    }

    /// A new connection resumes a held session; false if it is not held any more.
    pub fn resume(&self, notifier: Option<Arc<Notifier>>) -> bool {
        let mut state = self.0.lock();
        let held = matches!(state.phase, Phase::Active(_)) && state.held_until.take().is_some();
        if held && state.closing.is_none() {
            let now = self.0.engine.clock.now();
            self.0.disconnect(&mut state);
            state.notifier = notifier;
            state.last_input = now;
            state.input.pacer = Pacer::new(self.0.options.pace, now);
            self.0.post(&mut state, Event::state("active"));
        }
        held && state.closing.is_none()
    }

    /// Ends the session.
    pub fn close(&self, reason: EndReason, message: &str) {
        let mut state = self.0.lock();
        self.0.close_with(&mut state, reason, message.into());
    }

    /// Whether the end has been reached (there may still be events to fetch).
    pub fn ended(&self) -> bool {
        self.0.lock().phase == Phase::Ended
    }

    /// What has happened since the last call; does not wait.
    pub fn events(&self) -> Vec<Event> {
        let mut state = self.0.lock();
        self.0.fetch(&mut state)
    }

    /// Waits up to `timeout` until [`Self::events`] has something, and fetches nothing; false if
    /// there is nothing.
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.output.has_events(self.0.options.transport) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            let woken = self.0.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits up to `timeout` until there is room for input; false if there is none.
    pub fn wait_room(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        loop {
            if self.has_room() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let state = self.0.lock();
            // Short waits: room may have come, and been notified of, before this thread waited.
            let nap = left.min(Duration::from_millis(20));
            drop(self.0.changed.wait_timeout(state, nap));
        }
    }

    /// Whether this is still the process of the engine; see [`crate::engine::Engine::same_process`].
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn same_process(&self) -> Result<()> {
        self.0.engine.same_process()
    }

    /// What is known about this session.
    pub fn info(&self) -> SessionInfo {
        self.0.info()
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        if state.phase == Phase::Ended {
            return Err(Error::SessionEnded);
        }
        Ok(state)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.same_process().is_ok() {
            self.close(EndReason::Client, "");
        }
    }
}

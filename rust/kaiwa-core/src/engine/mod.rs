//! Many conversations over one model, stepped by a thread of their own. See docs/engine.md.

mod admission;
mod clock;
mod core;
mod hold;
mod hub;
mod pace;
mod pipeline;
mod reason;
mod session;
mod stats;
mod step_times;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use self::admission::Limits;
use self::clock::{Clock, SystemClock};
use self::core::{Core, Turn};
use self::hub::Hub;
pub use self::hub::{Notifier, Readiness};
pub use self::pace::Pace;
pub use self::pipeline::{Answer, Duplex, Echo, FRAME_SIZE, Pipeline, Start};
pub use self::reason::EndReason;
use self::session::Shared;
pub use self::session::{Event, Session, SessionInfo, SessionOptions, Transport};
pub use self::stats::{Histogram, Stats, StepRecord};
pub use self::step_times::percentile;
use crate::error::{Error, Result};

/// Settings of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Who is let in.
    pub limits: Limits,
    /// Threads for Opus.
    pub opus_threads: usize,
    /// Effort of the Opus encoder, 0 to 10.
    pub opus_complexity: u8,
    /// Measure steps before the first session.
    pub warm_up: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            limits: Limits {
                queue: 8,
                step_budget: 0.06,
            },
            opus_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            opus_complexity: 5,
            warm_up: true,
        }
    }
}

/// A running engine. It ends when this is dropped.
pub struct Engine {
    hub: Arc<Hub>,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for bad settings, [`Error::Thread`], and those of the first steps.
    pub fn start(pipeline: Box<dyn Pipeline>, options: EngineOptions) -> Result<Self> {
        if options.opus_complexity > 10 {
            return Err(Error::OptionValue {
                name: "opus_complexity",
                got: options.opus_complexity.to_string(),
                allowed: "0..=10".into(),
            });
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let threads = options.opus_threads.max(1);
        let hub = Arc::new(Hub::new(clock, threads, options.opus_complexity)?);
        let mut core = Core::new(pipeline, hub.clone(), options.limits);
        if options.warm_up {
            core.warm_up()?;
        }
        let mine = hub.clone();
        let work = move || {
            loop {
                match catch_unwind(AssertUnwindSafe(|| core.turn())) {
                    Ok(Turn::Stepped) => {}
                    Ok(Turn::Idle(until)) => mine.wait(until - mine.clock.now()),
                    Ok(Turn::Closed) => break,
                    // A defect outside a step: nobody may wait for ever.
                    Err(_) if mine.closed.swap(true, Ordering::SeqCst) => break,
                    Err(_) => {}
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("kaiwa-engine".into())
            .spawn(work)
            .map_err(|e| Error::Thread {
                reason: e.to_string(),
            })?;
        Ok(Self {
            hub,
            next: AtomicU64::new(1),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Asks for a session. Its first event tells whether it waits, runs, or was refused.
    ///
    /// # Errors
    /// [`Error::EngineClosed`]; [`Error::Forked`]; [`Error::OptionValue`] for settings that no
    /// model takes.
    pub fn open(
        &self,
        options: SessionOptions,
        notifier: Option<Arc<Notifier>>,
    ) -> Result<Session> {
        self.same_process()?;
        if self.hub.closed.load(Ordering::SeqCst) {
            return Err(Error::EngineClosed);
        }
        if let Some(sampling) = &options.start.sampling {
            crate::lm::check_sampling(sampling)?;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let shared = Shared::new(id, self.hub.clone(), options, notifier);
        self.hub.request(shared.clone());
        Ok(Session(shared))
    }

    /// Whether this is still the process in which the engine was started.
    ///
    /// # Errors
    /// [`Error::Forked`]: it is a fork, and nothing of the engine may be touched.
    pub fn same_process(&self) -> Result<()> {
        self.hub.same_process()
    }

    /// Whether the engine takes callers.
    pub fn readiness(&self) -> Readiness {
        self.hub.readiness().clone()
    }

    /// Everything that is counted.
    pub fn stats(&self) -> Stats {
        self.hub.stats().clone()
    }

    /// Every session that has not ended.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions = self.hub.sessions().clone();
        sessions.iter().map(|s| session::info(s)).collect()
    }

    /// Ends a session from outside; false if there is none of this number.
    pub fn end_session(&self, id: u64, reason: EndReason, message: &str) -> bool {
        let sessions = self.hub.sessions().clone();
        let found = sessions.iter().find(|s| s.id == id);
        if let Some(session) = found {
            session.close_with(&mut session.lock(), reason, message.into());
        }
        found.is_some()
    }

    /// Seconds since the engine's thread gave a sign of life: more than a few mean it is stuck.
    pub fn silent_for(&self) -> f64 {
        self.hub.silent_for()
    }

    /// Seconds since the engine began: the clock of [`StepRecord::at`].
    pub fn now(&self) -> f64 {
        self.hub.clock.now()
    }

    /// Takes nobody new; sessions go on.
    pub fn drain(&self) {
        self.hub.draining.store(true, Ordering::SeqCst);
        self.hub.ring();
    }

    /// Ends every session and the thread, and waits for it. Does nothing in a fork, which has no
    /// such thread.
    pub fn close(&self) {
        if self.same_process().is_err() {
            return;
        }
        self.hub.closed.store(true, Ordering::SeqCst);
        self.hub.ring();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic outside a step has nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

//! Many conversations over one model, stepped by a thread of their own. See docs/engine.md.

mod admission;
mod batch_delay;
mod by_hand;
mod clock;
mod core;
mod notifier;
mod pace;
mod readiness;
mod reason;
mod registry;
mod session;
mod shared;
mod stats;
mod step_times;
mod stepping;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use self::admission::Limits;
pub use self::by_hand::{ByHand, Fault, SteppedRow};
use self::clock::{Clock, SystemClock};
use self::core::{Core, Turn};
pub use self::notifier::Notifier;
pub use self::pace::Pace;
pub use self::readiness::Readiness;
pub use self::reason::EndReason;
use self::registry::Registry;
use self::session::SessionInner;
pub use self::session::{Event, Session, SessionInfo, SessionOptions, Transport};
use self::shared::EngineShared;
pub use self::stats::{Histogram, METRICS, Metric, MetricKind, Sample, Stats, StepRecord, Value};
pub use self::step_times::percentile;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;

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
    shared: Arc<EngineShared>,
    registry: Arc<Registry>,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for bad settings, [`Error::Thread`], and those of the first steps.
    pub fn start(pipeline: Box<dyn Pipeline>, options: EngineOptions) -> Result<Self> {
        let clock = Arc::new(SystemClock::default());
        let (engine, mut core) = Self::prepare(pipeline, options, clock)?;
        let shared = engine.shared.clone();
        let work = move || {
            loop {
                match core.guarded_turn() {
                    Turn::Stepped => {}
                    Turn::Idle(until) => shared.wait(until - shared.clock.now()),
                    Turn::Closed => break,
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("kaiwa-engine".into())
            .spawn(work)
            .map_err(|e| Error::Thread {
                reason: e.to_string(),
            })?;
        *engine.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(engine)
    }

    /// An engine that nothing turns yet, and what is to be turned.
    fn prepare(
        pipeline: Box<dyn Pipeline>,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Core)> {
        if options.opus_complexity > 10 {
            return Err(Error::OptionValue {
                name: "opus_complexity",
                got: options.opus_complexity.to_string(),
                allowed: "0..=10".into(),
            });
        }
        let threads = options.opus_threads.max(1);
        let input = pipeline.input();
        let shared = Arc::new(EngineShared::new(
            clock,
            input,
            threads,
            options.opus_complexity,
        )?);
        let mut core = Core::new(pipeline, shared.clone(), options.limits);
        if options.warm_up {
            core.warm_up()?;
        }
        let engine = Self {
            shared,
            registry: core.registry.clone(),
            next: AtomicU64::new(1),
            thread: Mutex::new(None),
        };
        Ok((engine, core))
    }

    /// Asks for a session. Its first event says whether it waits, runs, or was refused.
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
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(Error::EngineClosed);
        }
        if let Some(sampling) = &options.start.sampling {
            crate::lm::check_sampling(sampling)?;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let inner = SessionInner::new(id, self.shared.clone(), options, notifier);
        self.registry.request(inner.clone())?;
        self.shared.wake();
        Ok(Session(inner))
    }

    /// Whether this is still the process in which the engine was started.
    ///
    /// # Errors
    /// [`Error::Forked`]: it is a fork, and nothing of the engine may be touched.
    pub fn same_process(&self) -> Result<()> {
        self.shared.same_process()
    }

    /// Whether the engine takes callers.
    pub fn readiness(&self) -> Readiness {
        self.shared.readiness().clone()
    }

    /// Everything that is counted.
    pub fn stats(&self) -> Stats {
        self.shared.stats().clone()
    }

    /// Every metric with its values now.
    pub fn metrics(&self) -> Vec<(&'static Metric, Vec<Sample>)> {
        let (stats, readiness) = (self.stats(), self.readiness());
        let read = |metric: &'static Metric| (metric, metric.samples(&stats, &readiness));
        METRICS.iter().map(read).collect()
    }

    /// Every session that has not ended.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions = self.registry.sessions();
        sessions.iter().map(|s| s.info()).collect()
    }

    /// Ends a session from outside; false if there is none of this number.
    pub fn end_session(&self, id: u64, reason: EndReason, message: &str) -> bool {
        let sessions = self.registry.sessions();
        let found = sessions.iter().find(|s| s.id == id);
        if let Some(session) = found {
            session.close_with(&mut session.lock(), reason, message.into());
        }
        found.is_some()
    }

    /// Seconds since the engine's thread gave a sign of life: more than a few mean it is stuck.
    pub fn seconds_since_heartbeat(&self) -> f64 {
        self.shared.seconds_since_heartbeat()
    }

    /// Seconds since the engine began: the clock of [`StepRecord::at`].
    pub fn now(&self) -> f64 {
        self.shared.clock.now()
    }

    /// Takes nobody new; sessions go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.wake();
    }

    /// Ends every session and the thread, and waits for it. Does nothing in a fork, which has no
    /// such thread.
    pub fn close(&self) {
        if self.same_process().is_err() {
            return;
        }
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.wake();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It catches its own panics; whoever closes the engine needs no other.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

//! What the engine's thread, its sessions and its readers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use super::readiness::Readiness;
use super::stats::Stats;
use crate::error::{Error, Result};
use crate::pipeline::InputKind;

pub(super) struct EngineShared {
    pub clock: Arc<dyn Clock>,
    pub opus_complexity: u8,
    /// What sessions are fed with.
    pub input: InputKind,
    pub draining: AtomicBool,
    pub closed: AtomicBool,
    stats: Mutex<Stats>,
    readiness: Mutex<Readiness>,
    /// Milliseconds of the clock at the engine's last sign of life.
    heartbeat: AtomicU64,
    /// Whether the engine's thread was woken since it last waited.
    woken: Mutex<bool>,
    condvar: Condvar,
    opus_pool: rayon::ThreadPool,
    /// The process whose threads these are.
    process: u32,
}

impl EngineShared {
    pub fn new(
        clock: Arc<dyn Clock>,
        input: InputKind,
        opus_threads: usize,
        opus_complexity: u8,
    ) -> Result<Self> {
        let opus_pool = rayon::ThreadPoolBuilder::new()
            .num_threads(opus_threads)
            .thread_name(|i| format!("kaiwa-opus-{i}"))
            .build()
            .map_err(|e| Error::Thread {
                reason: e.to_string(),
            })?;
        Ok(Self {
            clock,
            opus_complexity,
            input,
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stats: Mutex::default(),
            readiness: Mutex::default(),
            heartbeat: AtomicU64::new(0),
            woken: Mutex::new(false),
            condvar: Condvar::new(),
            opus_pool,
            process: std::process::id(),
        })
    }

    /// Fails in a process that was forked from that of the engine: its threads are not there, and
    /// its locks may be held for ever.
    pub fn same_process(&self) -> Result<()> {
        let (parent, process) = (self.process, std::process::id());
        if parent == process {
            Ok(())
        } else {
            Err(Error::Forked { parent, process })
        }
    }

    pub fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn readiness(&self) -> MutexGuard<'_, Readiness> {
        self.readiness
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a thread for Opus, in order of asking.
    pub fn spawn_opus(&self, work: impl FnOnce() + Send + 'static) {
        self.opus_pool.spawn_fifo(work);
    }

    /// Wakes the engine's thread: there is something to do.
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.condvar.notify_one();
    }

    /// Whether the engine was woken since it last waited.
    pub fn is_woken(&self) -> bool {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that the engine was woken: it is about to look at everything.
    pub fn take_wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits until there is something to do, or until `seconds` have passed.
    pub fn wait(&self, seconds: f64) {
        let seconds = Duration::from_secs_f64(seconds.clamp(0.0, 1.0));
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .condvar
            .wait_timeout_while(woken, seconds, |woken| !*woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// The engine's thread gives a sign of life.
    pub fn beat(&self) {
        let now = (self.clock.now() * 1000.0) as u64;
        self.heartbeat.store(now, Ordering::Relaxed);
    }

    /// Seconds since the engine's thread last gave a sign of life.
    pub fn seconds_since_heartbeat(&self) -> f64 {
        let last = self.heartbeat.load(Ordering::Relaxed) as f64 / 1000.0;
        (self.clock.now() - last).max(0.0)
    }
}

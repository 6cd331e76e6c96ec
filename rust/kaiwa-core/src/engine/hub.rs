//! What the engine's thread, its sessions and its readers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use super::session::Shared;
use super::stats::Stats;
use crate::error::{Error, Result};

/// Whether the engine takes callers, as of the last turn.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// `ready`, `full`, `overloaded`, `draining` or `closed`.
    pub state: &'static str,
    /// Number of slots.
    pub slots_total: usize,
    /// Slots taken.
    pub slots_used: usize,
    /// Callers waiting.
    pub queue: usize,
    /// 95th percentile of a step with as many rows as there are sessions, in seconds.
    pub step_p95: f64,
    /// The same with one session more.
    pub predicted: f64,
    /// Bytes of running state.
    pub state_bytes: usize,
}

pub(super) struct Hub {
    pub clock: Arc<dyn Clock>,
    pub opus_complexity: u8,
    pub draining: AtomicBool,
    pub closed: AtomicBool,
    stats: Mutex<Stats>,
    readiness: Mutex<Readiness>,
    requests: Mutex<Vec<Arc<Shared>>>,
    /// Every session that has not ended, for lists.
    sessions: Mutex<Vec<Arc<Shared>>>,
    /// Milliseconds of the clock at the last sign of life.
    heartbeat: AtomicU64,
    rung: Mutex<bool>,
    bell: Condvar,
    pool: rayon::ThreadPool,
    /// The process whose threads these are.
    process: u32,
}

impl Hub {
    pub fn new(clock: Arc<dyn Clock>, opus_threads: usize, opus_complexity: u8) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(opus_threads)
            .thread_name(|i| format!("kaiwa-opus-{i}"))
            .build()
            .map_err(|e| Error::Thread {
                reason: e.to_string(),
            })?;
        Ok(Self {
            clock,
            opus_complexity,
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stats: Mutex::default(),
            readiness: Mutex::default(),
            requests: Mutex::default(),
            sessions: Mutex::default(),
            heartbeat: AtomicU64::new(0),
            rung: Mutex::new(false),
            bell: Condvar::new(),
            pool,
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

    pub fn sessions(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a thread for Opus, in order of asking.
    pub fn opus(&self, work: impl FnOnce() + Send + 'static) {
        self.pool.spawn_fifo(work);
    }

    /// A new session asks for a slot.
    pub fn request(&self, session: Arc<Shared>) {
        self.sessions().push(session.clone());
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(session);
        drop(requests);
        self.ring();
    }

    pub fn take_requests(&self) -> Vec<Arc<Shared>> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *requests)
    }

    /// A session has ended.
    pub fn forget(&self, id: u64) {
        self.sessions().retain(|s| s.id != id);
    }

    /// There is something to do.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }

    /// Waits until there is something to do, or until `seconds` have passed.
    pub fn wait(&self, seconds: f64) {
        let seconds = Duration::from_secs_f64(seconds.clamp(0.0, 1.0));
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = self.bell.wait_timeout_while(rung, seconds, |rung| !*rung);
        *woken.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    pub fn beat(&self) {
        let now = (self.clock.now() * 1000.0) as u64;
        self.heartbeat.store(now, Ordering::Relaxed);
    }

    /// Seconds since the engine's thread last gave a sign of life.
    pub fn silent_for(&self) -> f64 {
        let last = self.heartbeat.load(Ordering::Relaxed) as f64 / 1000.0;
        (self.clock.now() - last).max(0.0)
    }
}

/// Tells one waiting program, by a file descriptor that becomes readable, which sessions have
/// something for it. For event loops: no thread waits, and no lock of the program is taken.
pub struct Notifier {
    waiting: Mutex<Vec<u64>>,
    #[cfg(unix)]
    pipe: (
        std::os::unix::net::UnixStream,
        std::os::unix::net::UnixStream,
    ),
    changed: Condvar,
}

impl Notifier {
    /// A notifier that nothing has been told to yet.
    ///
    /// # Errors
    /// [`Error::Thread`] if the system has no more descriptors.
    pub fn new() -> Result<Arc<Self>> {
        #[cfg(unix)]
        let pipe = {
            let failed = |e: std::io::Error| Error::Thread {
                reason: e.to_string(),
            };
            let (read, write) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
            read.set_nonblocking(true).map_err(failed)?;
            write.set_nonblocking(true).map_err(failed)?;
            (read, write)
        };
        Ok(Arc::new(Self {
            waiting: Mutex::default(),
            #[cfg(unix)]
            pipe,
            changed: Condvar::new(),
        }))
    }

    /// The descriptor that is readable while [`Self::take`] has something; `None` where the
    /// system has no such thing.
    pub fn descriptor(&self) -> Option<i32> {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            Some(self.pipe.0.as_raw_fd())
        }
        #[cfg(not(unix))]
        None
    }

    pub(super) fn tell(&self, id: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.is_empty();
        if !waiting.contains(&id) {
            waiting.push(id);
        }
        if first {
            // One byte for all that is told until it is taken. A full pipe is readable anyway.
            #[cfg(unix)]
            {
                use std::io::Write;
                let _ = (&self.pipe.1).write(&[1]);
            }
            self.changed.notify_all();
        }
    }

    /// The sessions that have something, since the last call.
    pub fn take(&self) -> Vec<u64> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(unix)]
        {
            use std::io::Read;
            let mut bytes = [0; 16];
            while matches!((&self.pipe.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        }
        std::mem::take(&mut *waiting)
    }

    /// [`Self::take`], waiting up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> Vec<u64> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = self
            .changed
            .wait_timeout_while(waiting, timeout, |w| w.is_empty());
        drop(woken.unwrap_or_else(PoisonError::into_inner));
        self.take()
    }
}

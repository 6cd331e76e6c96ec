//! The kernels' own threads.
//!
//! Work is cut into tasks by its shape alone, never by the number of threads, and every output
//! element belongs to one task: so any number of threads gives the same bits.
//!
//! A step of a language model is some four hundred short parallel loops, one after the other.
//! Handing each to sleeping threads would cost more than many of them last, so the threads watch
//! for the next loop a little while before they sleep, and the caller works too. While one loop
//! runs, loops of other callers run on their own thread alone.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use crate::error::Result;

/// Times a thread looks for a new loop before it goes to sleep: about 50 microseconds.
const SPINS: usize = 2000;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// A loop that the threads may work on.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    count: usize,
}

/// Threads and the one loop they may be working on.
///
/// Protocol. The owner of `busy` writes `job`, resets `next`, and sets `open`. A worker counts
/// itself in `active` and only then looks at `open`; if it is set, it takes tasks. The owner clears
/// `open` and waits until no worker is active. All of this is sequentially consistent: a worker
/// that saw `open` set is counted in `active` when the owner has cleared it.
struct Pool {
    threads: usize,
    /// A caller's loop has the threads.
    busy: AtomicBool,
    /// Workers may read `job` and take tasks.
    open: AtomicBool,
    /// Workers that may be reading `job`.
    active: AtomicUsize,
    /// First task that nobody has taken.
    next: AtomicUsize,
    /// Counts loops; sleeping workers wait for it to change.
    round: AtomicUsize,
    panicked: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    /// Workers that wait at `condvar`, changed under `park_lock`.
    asleep: AtomicUsize,
    park_lock: Mutex<()>,
    condvar: Condvar,
}

// SAFETY: `job` is written only by the owner of `busy` while `open` is clear and no worker is
// active, and read only by active workers that saw `open` set; the closure it points to is `Sync`
// and outlives the loop, because the owner waits until no worker is active.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    fn start(threads: usize) -> Arc<Self> {
        let pool = Arc::new(Self {
            threads,
            busy: AtomicBool::new(false),
            open: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            asleep: AtomicUsize::new(0),
            park_lock: Mutex::new(()),
            condvar: Condvar::new(),
        });
        for i in 1..threads {
            let worker = pool.clone();
            // Without its threads a pool is slow, not wrong: the caller does every task.
            let _ = std::thread::Builder::new()
                .name(format!("kaiwa-{i}"))
                .spawn(move || worker.work());
        }
        pool
    }

    /// What a worker does all its life.
    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            self.active.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) {
                // SAFETY: counted as active before `open` was seen set; see `Pool`.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take(job);
                }
            }
            self.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits for a loop after round `seen`, and returns the present round.
    fn wait(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let now = self.round.load(Ordering::SeqCst);
            if now != seen {
                return now;
            }
            std::hint::spin_loop();
        }
        let mut parked = self
            .park_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        loop {
            let now = self.round.load(Ordering::SeqCst);
            if now != seen {
                self.asleep.fetch_sub(1, Ordering::SeqCst);
                return now;
            }
            parked = (self.condvar.wait(parked)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does tasks until there are none left.
    fn take(&self, job: Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut start = self.next.load(Ordering::Relaxed);
            while start < job.count {
                // A run of neighbours, whose memory is often one stretch: long ones first, single
                // tasks at the end.
                let end = start + ((job.count - start) / (2 * self.threads)).max(1);
                let order = Ordering::Relaxed;
                match self.next.compare_exchange_weak(start, end, order, order) {
                    Ok(_) => {
                        for i in start..end {
                            // SAFETY: the owner keeps the closure alive while a worker is active.
                            unsafe { (*job.task)(i) };
                        }
                        start = self.next.load(Ordering::Relaxed);
                    }
                    Err(now) => start = now,
                }
            }
        }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::SeqCst);
        }
    }

    /// Runs a loop with all threads; false if another loop has them.
    fn run(&self, count: usize, task: &Task<'_>) -> bool {
        if self.threads < 2 || self.busy.swap(true, Ordering::SeqCst) {
            return false;
        }
        // SAFETY: only the lifetime changes; this function returns after the last use.
        let task: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        let job = Job { task, count };
        // SAFETY: this is the owner of `busy`; `open` is clear and no worker is active.
        unsafe { *self.job.get() = Some(job) };
        self.next.store(0, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
        self.round.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that a thread about to sleep has either seen the new round or is
            // woken.
            drop(
                self.park_lock
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            self.condvar.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| self.take(job)));
        self.open.store(false, Ordering::SeqCst);
        while self.active.load(Ordering::SeqCst) != 0 {
            std::hint::spin_loop();
        }
        let broken = self.panicked.swap(false, Ordering::SeqCst);
        self.busy.store(false, Ordering::SeqCst);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        if broken {
            resume_unwind(Box::new("a task of a kernel panicked"));
        }
        true
    }
}

/// The pool of this process. A forked child inherits the memory of a pool but none of its
/// threads, so the owner's process id is kept beside it.
static POOL: RwLock<Option<(u32, Arc<Pool>)>> = RwLock::new(None);

fn pool() -> Arc<Pool> {
    let me = std::process::id();
    let mine = |owner: &Option<(u32, Arc<Pool>)>| {
        let owner = owner.as_ref().filter(|(id, _)| *id == me);
        owner.map(|(_, pool)| pool.clone())
    };
    if let Some(pool) = mine(&POOL.read().unwrap_or_else(PoisonError::into_inner)) {
        return pool;
    }
    let mut slot = POOL.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = mine(&slot) {
        return pool;
    }
    let wanted = std::env::var("KAIWA_THREADS")
        .ok()
        .and_then(|v| v.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = wanted.filter(|&n: &usize| n > 0).unwrap_or(cores).min(256);
    let pool = Pool::start(threads);
    *slot = Some((me, pool.clone()));
    pool
}

/// Threads the kernels use: `KAIWA_THREADS`, or one a core.
pub fn threads() -> usize {
    pool().threads
}

/// Calls `task(i)` for every `i` below `count`, on several threads if there are several tasks.
pub(super) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 || !pool().run(count, &task) {
        (0..count).for_each(task);
    }
}

/// [`for_each`], on this thread alone unless `parallel`.
pub(super) fn for_each_if(parallel: bool, count: usize, task: impl Fn(usize) + Sync + Send) {
    if parallel {
        for_each(count, task);
    } else {
        (0..count).for_each(task);
    }
}

/// Calls `task` with each run of `size` elements (the last may be shorter) and its number, on
/// all threads; returns the first error, after which no new runs are begun.
pub(crate) fn for_each_chunk<T: Send>(
    data: &mut [T],
    size: usize,
    task: impl Fn(usize, &mut [T]) -> Result<()> + Sync + Send,
) -> Result<()> {
    let (len, size) = (data.len(), size.max(1));
    let base = Shared::new(data);
    let failed = Mutex::new(None);
    let stop = AtomicBool::new(false);
    for_each(len.div_ceil(size), |i| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let start = i * size;
        // SAFETY: runs do not overlap and lie inside `data`, which stays borrowed.
        let run =
            unsafe { std::slice::from_raw_parts_mut(base.get().add(start), size.min(len - start)) };
        if let Err(e) = task(i, run) {
            stop.store(true, Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(e);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// A pointer that tasks may share; each task keeps to its own elements.
pub(super) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// SAFETY: `Shared` is only used inside `for_each` loops of this module and its siblings, where
// every task writes a region of its own and the borrow that the pointer came from outlives the
// loop.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_whoever_calls() {
        let pool = Pool::start(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let hits: Vec<AtomicU32> = (0..round % 40).map(|_| 0.into()).collect();
                        let task = |i: usize| {
                            hits[i].fetch_add(1, Ordering::Relaxed);
                        };
                        if !pool.run(hits.len(), &task) {
                            (0..hits.len()).for_each(task);
                        }
                        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn sleepers_wake() {
        let pool = Pool::start(3);
        for _ in 0..5 {
            let names = Mutex::new(std::collections::HashSet::new());
            std::thread::sleep(std::time::Duration::from_millis(20));
            let task = |_: usize| {
                std::thread::sleep(std::time::Duration::from_millis(2));
                names.lock().unwrap().insert(std::thread::current().id());
            };
            assert!(pool.run(30, &task));
            assert_eq!(names.into_inner().unwrap().len(), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::start(3);
        for bad in 0..20 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|i| assert!(i != bad, "on purpose"))
            }));
            assert!(outcome.is_err());
            assert!(pool.run(5, &|_| ()));
        }
    }

    #[test]
    fn chunks_cover_everything_and_errors_stop() {
        let mut data = vec![0u32; 1001];
        for_each_chunk(&mut data, 10, |i, run| {
            run.iter_mut().for_each(|v| *v += i as u32 + 1);
            Ok(())
        })
        .unwrap();
        assert!(
            data.iter()
                .enumerate()
                .all(|(i, v)| *v == i as u32 / 10 + 1)
        );
        let outcome = for_each_chunk(&mut data, 10, |i, _| match i {
            50 => Err(crate::Error::Interrupted),
            _ => Ok(()),
        });
        assert!(outcome.is_err());
    }
}

//! The kernels' own thread pool.
//!
//! Work is cut into tasks by its shape alone, never by the number of threads, and every output
//! element belongs to one task: so any number of threads gives the same bits.

use std::sync::{Arc, PoisonError, RwLock};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pool of this process. A forked child inherits the memory of a pool but none of its
/// threads, so the owner's process id is kept beside it.
static POOL: RwLock<Option<(u32, Arc<ThreadPool>)>> = RwLock::new(None);

fn pool() -> Option<Arc<ThreadPool>> {
    let me = std::process::id();
    let mine = |owner: &Option<(u32, Arc<ThreadPool>)>| {
        owner
            .as_ref()
            .filter(|(id, _)| *id == me)
            .map(|(_, pool)| pool.clone())
    };
    if let Some(pool) = mine(&POOL.read().unwrap_or_else(PoisonError::into_inner)) {
        return Some(pool);
    }
    let mut slot = POOL.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = mine(&slot) {
        return Some(pool);
    }
    let pool = Arc::new(build()?);
    // The parent's pool is forgotten, not dropped: dropping would wait for threads that are not
    // there.
    std::mem::forget(slot.replace((me, pool.clone())));
    Some(pool)
}

fn build() -> Option<ThreadPool> {
    let wanted = std::env::var("KAIWA_THREADS")
        .ok()
        .and_then(|v| v.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    ThreadPoolBuilder::new()
        .num_threads(wanted.filter(|&n: &usize| n > 0).unwrap_or(cores).min(256))
        .thread_name(|i| format!("kaiwa-{i}"))
        .build()
        .ok()
}

/// Threads the kernels use: `KAIWA_THREADS`, or one a core.
pub fn threads() -> usize {
    pool().map_or(1, |pool| pool.current_num_threads())
}

/// Runs `work` inside the pool, so that the parallel loops inside need no hand-over each.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match pool() {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Calls `task(i)` for every `i` below `count`, on several threads if there are several tasks.
pub(super) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
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

/// A pointer that tasks may share; each task keeps to its own elements.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(*mut T);

// SAFETY: `Shared` is only used inside `for_each` loops of this module's siblings, where every
// task writes a region of its own and the borrow that the pointer came from outlives the loop.
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

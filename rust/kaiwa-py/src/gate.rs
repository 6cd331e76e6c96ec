//! The one gate between Python and the core.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kaiwa_core::Error;
use pyo3::prelude::*;

use crate::error;

/// How often a long call looks for Ctrl-C and reports progress.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs `work` without the interpreter lock; errors and panics become exceptions.
///
/// Locks must be taken inside `work`, never around it: a thread that waits for a lock while it
/// holds the interpreter would stop the thread that has to give the lock back.
pub fn detached<R: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<R, Error> + Send,
) -> PyResult<R> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(error::to_py(py, &e)),
        Err(panic) => Err(error::panicked(py, text(&*panic))),
    }
}

/// [`detached`] for long calls: `work` gets a hook that it calls between pieces with (done,
/// total). The hook runs Python's signal handlers and the user's `progress` callback about ten
/// times a second, and once at the end; an exception in either ends the call.
pub fn detached_long<R: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(usize, usize) -> ControlFlow<()>) -> Result<R, Error> + Send,
) -> PyResult<R> {
    let mut raised: Option<PyErr> = None;
    let raised_in = &mut raised;
    let result = detached(py, move || {
        let mut last = Instant::now();
        work(&mut |done, total| {
            if last.elapsed() < INTERVAL && done < total {
                return ControlFlow::Continue(());
            }
            last = Instant::now();
            let outcome = Python::attach(|py| {
                py.check_signals()?;
                match &progress {
                    Some(callback) => callback.call1(py, (done, total)).map(|_| ()),
                    None => Ok(()),
                }
            });
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    *raised_in = Some(e);
                    ControlFlow::Break(())
                }
            }
        })
    });
    match raised {
        Some(e) => Err(e),
        None => result,
    }
}

/// The value behind a lock, also after a panic: each call checks its own input, and a stream whose
/// call failed half-way can be reset.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

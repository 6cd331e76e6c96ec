//! Tells a program's event loop which sessions have something for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

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
    /// A notifier with no session to tell of.
    ///
    /// # Errors
    /// [`Error::Descriptor`] if the system has no more descriptors.
    pub fn new() -> Result<Arc<Self>> {
        #[cfg(unix)]
        let pipe = {
            let failed = |e: std::io::Error| Error::Descriptor {
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

    pub(super) fn notify(&self, id: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.is_empty();
        if !waiting.contains(&id) {
            waiting.push(id);
        }
        if first {
            // One byte for all sessions until they are taken. A full pipe is readable anyway.
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

//! The sessions of an engine that have not ended.

use std::sync::{Arc, Mutex, PoisonError};

use super::session::SessionInner;
use crate::error::{Error, Result};

/// The sessions that have not ended, and those of them that still have to ask for a slot.
#[derive(Default)]
pub(super) struct Registry(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    sessions: Vec<Arc<SessionInner>>,
    requests: Vec<Arc<SessionInner>>,
    closed: bool,
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session that asks for a slot.
    ///
    /// # Errors
    /// [`Error::EngineClosed`]: nobody would answer it.
    pub fn request(&self, session: Arc<SessionInner>) -> Result<()> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Error::EngineClosed);
        }
        inner.sessions.push(session.clone());
        inner.requests.push(session);
        Ok(())
    }

    /// The sessions that have asked for a slot since the last call.
    pub fn take_requests(&self) -> Vec<Arc<SessionInner>> {
        std::mem::take(&mut self.lock().requests)
    }

    /// All sessions that have not ended.
    pub fn sessions(&self) -> Vec<Arc<SessionInner>> {
        self.lock().sessions.clone()
    }

    /// A session has ended.
    pub fn remove(&self, id: u64) {
        self.lock().sessions.retain(|s| s.id != id);
    }

    /// Refuses requests from now on, and gives all sessions that have not ended.
    pub fn close(&self) -> Vec<Arc<SessionInner>> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.requests.clear();
        std::mem::take(&mut inner.sessions)
    }
}

//! Counting what executors give to a device.

use std::sync::{Arc, Mutex, PoisonError};

use super::executor::Counts;

/// What was counted, shared by an executor and its frames.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    pub(super) fn add(&self, cost: &Counts) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.frames += cost.frames;
        counts.kernels += cost.kernels;
        counts.launches += cost.launches;
        counts.copies_in += cost.copies_in;
        counts.copies_out += cost.copies_out;
        counts.waits += cost.waits;
    }

    pub(super) fn get(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

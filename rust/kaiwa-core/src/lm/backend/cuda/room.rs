//! How much memory a stream takes: rings, and what a step needs beside them, which grows with the
//! number of slots too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::CudaLm;
use super::state_memory::{StateMemory, internal_error};
use crate::cuda::args::Pointer;
use crate::cuda::executor::{Counts, Executor, Prepared};
use crate::cuda::frame::Frame;
use crate::device::memory::check_free;
use crate::error::Result;

/// Pieces of memory begin at multiples of this.
const ALIGNMENT: usize = 512;

/// Refuses a stream that does not fit.
///
/// # Errors
/// [`crate::Error::SlotsMemory`] with the number of slots that fit.
pub(super) fn check(model: &CudaLm, slots: usize) -> Result<()> {
    let free = model.executor.free_bytes();
    check_free(free, slots, &|slots| bytes(model, slots))
}

/// Bytes of a stream of some slots.
pub(super) fn bytes(model: &CudaLm, slots: usize) -> usize {
    let counter = Arc::new(Counter::default());
    let executor: Arc<dyn Executor> = counter.clone();
    match StateMemory::new(&executor, model, slots) {
        Ok(_) => counter.0.load(Ordering::Relaxed),
        Err(_) => usize::MAX,
    }
}

/// A device that only counts what is asked of it.
#[derive(Debug, Default)]
struct Counter(AtomicUsize);

impl Executor for Counter {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        Ok((self.0.fetch_add(bytes, Ordering::Relaxed) + ALIGNMENT) as u64)
    }

    fn free(&self, _address: u64, _bytes: usize) {}

    fn write(&self, _to: Pointer, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _from: Pointer, _bytes: &mut [u8]) -> Result<()> {
        Err(internal_error("nothing is held here"))
    }

    fn prepare(&self, _frame: Frame) -> Result<Box<dyn Prepared>> {
        Err(internal_error("nothing is run here"))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Option<usize> {
        None
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }
}

//! An executor over a driver: memory, copies, and frames either kernel by kernel or as graphs.

use std::sync::{Arc, Mutex, PoisonError};

use super::args::Pointer;
use super::driver::{Driver, HostBlock};
use super::eager::EagerFrame;
use super::executor::{Counts, Executor, Prepared};
use super::frame::Frame;
use super::graph::GraphFrame;
use super::tally::Tally;
use crate::error::Result;

/// How frames are given to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Kernel by kernel.
    Eager,
    /// As graphs that were captured when the frame was prepared.
    Graph,
}

/// Bytes that are copied at a time outside frames.
const COPY: usize = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct QueueExecutor<D: Driver> {
    driver: Arc<D>,
    mode: Mode,
    tally: Tally,
    /// For copies outside frames; made at the first.
    staging: Mutex<Option<HostBlock<D>>>,
}

impl<D: Driver> QueueExecutor<D> {
    pub(crate) fn over(driver: Arc<D>, mode: Mode) -> Self {
        Self {
            driver,
            mode,
            tally: Tally::default(),
            staging: Mutex::default(),
        }
    }

    /// Calls `copy` with the block for copies and the range of bytes that is copied through it.
    fn staged(
        &self,
        bytes: usize,
        mut copy: impl FnMut(&mut HostBlock<D>, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let block = match &mut *staging {
            Some(block) => block,
            none => none.insert(HostBlock::new(&self.driver, COPY)?),
        };
        for first in (0..bytes).step_by(COPY) {
            copy(block, first..bytes.min(first + COPY))?;
        }
        Ok(())
    }
}

impl<D: Driver> Executor for QueueExecutor<D> {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.driver.allocate(bytes)
    }

    fn free(&self, address: u64, bytes: usize) {
        self.driver.free(address, bytes);
    }

    fn write(&self, to: Pointer, bytes: &[u8]) -> Result<()> {
        self.staged(bytes.len(), |block, range| {
            block.bytes()[..range.len()].copy_from_slice(&bytes[range.clone()]);
            let to = Pointer(to.0 + range.start as u64);
            self.driver.turn(|| {
                // SAFETY: as many bytes were just written to the block, which nobody else has
                // until the copy was waited for.
                let given = unsafe { self.driver.write(to, block.start(), range.len()) };
                self.driver.wait().and(given)
            })?;
            self.tally.add(&Counts {
                copies_in: 1,
                waits: 1,
                ..Counts::default()
            });
            Ok(())
        })
    }

    fn read(&self, from: Pointer, bytes: &mut [u8]) -> Result<()> {
        self.staged(bytes.len(), |block, range| {
            let from = Pointer(from.0 + range.start as u64);
            self.driver.turn(|| {
                // SAFETY: the block has room for as many bytes and is used after the wait.
                let given = unsafe { self.driver.read(from, block.start(), range.len()) };
                self.driver.wait().and(given)
            })?;
            self.tally.add(&Counts {
                copies_out: 1,
                waits: 1,
                ..Counts::default()
            });
            let length = range.len();
            bytes[range].copy_from_slice(&block.bytes()[..length]);
            Ok(())
        })
    }

    fn prepare(&self, frame: Frame) -> Result<Box<dyn Prepared>> {
        Ok(match self.mode {
            Mode::Eager => Box::new(EagerFrame::new(&self.driver, frame, &self.tally)?),
            Mode::Graph => Box::new(GraphFrame::new(&self.driver, frame, &self.tally)?),
        })
    }

    fn check(&self) -> Result<()> {
        self.driver.turn(|| Ok(()))
    }

    fn free_bytes(&self) -> Option<usize> {
        self.driver.free_bytes()
    }

    fn counts(&self) -> Counts {
        self.tally.get()
    }
}

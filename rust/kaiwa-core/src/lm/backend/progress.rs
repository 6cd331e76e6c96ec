//! How far the loading of a model is, told after every tensor.

use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::lm::{LmTensors, TensorInfo};

/// Called with numbers read and numbers to read; may ask to stop.
pub(super) type Tell<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// See the module.
pub(super) struct Progress<'a> {
    tell: Tell<'a>,
    done: u64,
    total: u64,
    bytes: usize,
}

impl<'a> Progress<'a> {
    /// At the beginning of all tensors.
    pub(super) fn of(tensors: &dyn LmTensors, tell: Tell<'a>) -> Result<Self> {
        let mut total = 0;
        for name in tensors.names() {
            let info = tensors.info(&name)?;
            total += (info.rows * info.cols) as u64;
        }
        Ok(Self {
            tell,
            done: 0,
            total,
            bytes: 0,
        })
    }

    /// A tensor was read, and takes `bytes` from here on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the caller asks to stop.
    pub(super) fn count(&mut self, info: &TensorInfo, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        self.done += (info.rows * info.cols) as u64;
        self.say(self.done)
    }

    /// Ends the loading: bytes of everything. What is in the file and not run was counted and not
    /// read.
    pub(super) fn finish(mut self) -> Result<usize> {
        self.say(self.total).map(|()| self.bytes)
    }

    fn say(&mut self, done: u64) -> Result<()> {
        match (self.tell)(done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}

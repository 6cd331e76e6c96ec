//! Frames given to the device one kernel after the other: what a graph is compared with, and what
//! profilers show.

use std::sync::Arc;

use super::driver::{Driver, HostBlock};
use super::executor::{Counts, Prepared};
use super::frame::Frame;
use super::tally::Tally;
use crate::error::Result;

/// A frame with its kernels looked up and its blocks of host memory.
pub(super) struct EagerFrame<D: Driver> {
    driver: Arc<D>,
    frame: Frame,
    kernels: Vec<D::Kernel>,
    pub(super) input: HostBlock<D>,
    pub(super) output: HostBlock<D>,
    tally: Tally,
}

impl<D: Driver> EagerFrame<D> {
    pub(super) fn new(driver: &Arc<D>, frame: Frame, tally: &Tally) -> Result<Self> {
        let nodes = frame.nodes.iter();
        let kernel = |node: &super::frame::Node| driver.kernel(node.kernel, node.shape.shared);
        Ok(Self {
            kernels: driver.turn(|| nodes.map(kernel).collect::<Result<_>>())?,
            input: HostBlock::new(driver, frame.input.1)?,
            output: HostBlock::new(driver, frame.output.1)?,
            driver: driver.clone(),
            frame,
            tally: tally.clone(),
        })
    }

    /// What an input is whose rows are all none.
    pub(super) fn idle(&self) -> &[u8] {
        &self.frame.idle
    }

    /// What one run costs when it is given kernel by kernel.
    pub(super) fn cost(&self) -> Counts {
        let kernels = self.frame.nodes.len() as u64;
        Counts {
            frames: 1,
            kernels,
            launches: kernels,
            copies_in: 1,
            copies_out: 1,
            waits: 1,
        }
    }

    /// Gives the device the copy in, the kernels and the copy out, inside a turn.
    pub(super) fn give(&self) -> Result<()> {
        let (driver, frame) = (&*self.driver, &self.frame);
        // SAFETY: the blocks are as long as the frame's input and output and belong to it; who
        // gives waits before they are used again. Kernels are those of their nodes, whose
        // addresses are of this device's memory (checked when the frame was prepared); that each
        // is as large as the kernel uses it is what the makers of frames see to, and what the
        // sanitizers' run checks.
        unsafe {
            driver.write(frame.input.0, self.input.start(), frame.input.1)?;
            for (node, kernel) in frame.nodes.iter().zip(&self.kernels) {
                driver.launch(kernel, node)?;
            }
            driver.read(frame.output.0, self.output.start(), frame.output.1)
        }
    }
}

impl<D: Driver> Prepared for EagerFrame<D> {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        self.input.bytes()[..input.len()].copy_from_slice(input);
        let driver = self.driver.clone();
        driver.turn(|| {
            let given = self.give();
            // Also after an error: nothing may be under way when the blocks are used again.
            driver.wait().and(given)
        })?;
        output.copy_from_slice(&self.output.bytes()[..output.len()]);
        self.tally.add(&self.cost());
        Ok(())
    }
}

//! Frames as graphs: captured once, given to the device at once.

use std::sync::Arc;

use super::driver::Driver;
use super::eager::EagerFrame;
use super::executor::{Counts, Prepared};
use super::frame::Frame;
use super::tally::Tally;
use crate::error::Result;

/// A captured frame; its copies in and out are part of the graph.
pub(super) struct GraphFrame<D: Driver> {
    /// Before what it was captured from, so that it is dropped first.
    graph: D::Graph,
    eager: EagerFrame<D>,
    driver: Arc<D>,
    tally: Tally,
}

impl<D: Driver> GraphFrame<D> {
    /// Runs the frame once as it is, with rows that are none, so that every kernel is loaded and an
    /// error of one shows here; then captures it.
    pub(super) fn new(driver: &Arc<D>, frame: Frame, tally: &Tally) -> Result<Self> {
        let mut eager = EagerFrame::new(driver, frame, tally)?;
        let idle = eager.idle().to_vec();
        eager.input.bytes()[..idle.len()].copy_from_slice(&idle);
        let graph = driver.turn(|| {
            let given = eager.give();
            driver.wait().and(given)?;
            driver.begin_capture()?;
            let given = eager.give();
            let graph = driver.end_capture();
            given.and(graph)
        })?;
        Ok(Self {
            graph,
            eager,
            driver: driver.clone(),
            tally: tally.clone(),
        })
    }
}

impl<D: Driver> Prepared for GraphFrame<D> {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        self.eager.input.bytes()[..input.len()].copy_from_slice(input);
        let driver = &*self.driver;
        driver.turn(|| {
            // SAFETY: the blocks belong to the frame, and its memory stays as long as it does.
            let given = unsafe { driver.launch_graph(&self.graph) };
            driver.wait().and(given)
        })?;
        output.copy_from_slice(&self.eager.output.bytes()[..output.len()]);
        self.tally.add(&Counts {
            launches: 1,
            ..self.eager.cost()
        });
        Ok(())
    }
}

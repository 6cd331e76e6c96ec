//! CUDA kernels of our own (the folder `cuda` of this crate), and what runs them.
//!
//! The kernels are one source for a card and for the processor. A frame is a list of launches over
//! memory that was allocated before ([`frame`]); an [`executor::Executor`] runs it. Executors give a
//! [`driver::Driver`] its kernels one after the other ([`eager`]) or as a captured graph ([`graph`]).
//! There are two drivers: a card's ([`card`], feature `cuda`), and the simulator's ([`sim_driver`],
//! feature `cuda-sim`), over which tests run the kernels and the executors on the processor.
#![allow(
    dead_code,
    reason = "counters and checks that only tests look at, and what only one of the drivers needs"
)]

pub(crate) mod args;
pub(crate) mod attention;
#[cfg(feature = "cuda")]
pub(crate) mod card;
pub(crate) mod driver;
mod eager;
pub(crate) mod executor;
#[cfg(feature = "cuda")]
mod fatbin;
pub(crate) mod frame;
mod graph;
pub(crate) mod product;
pub(crate) mod queue;
pub(crate) mod shape;
#[cfg(feature = "cuda-sim")]
pub(crate) mod sim;
#[cfg(feature = "cuda-sim")]
pub(crate) mod sim_driver;
mod tally;
#[cfg(all(test, feature = "cuda-sim"))]
mod tests;

/// What runs frames on the processor, over as much memory as there is.
#[cfg(feature = "cuda-sim")]
pub(crate) fn sim_executor() -> std::sync::Arc<dyn executor::Executor> {
    let options = sim::Options::FORWARD;
    sim_driver::SimExecutor::new(usize::MAX, options, queue::Mode::Eager).executor()
}

/// What runs frames on an open card.
///
/// # Errors
/// Those of [`card::CardDriver::new`].
#[cfg(feature = "cuda")]
pub(crate) fn card_executor(
    device: crate::device::OpenDevice,
    mode: queue::Mode,
) -> crate::error::Result<std::sync::Arc<dyn executor::Executor>> {
    let driver = std::sync::Arc::new(card::CardDriver::new(device)?);
    Ok(std::sync::Arc::new(queue::QueueExecutor::over(
        driver, mode,
    )))
}

//! CUDA kernels of our own (the folder `cuda` of this crate), and what runs them.
//!
//! The kernels are one source for a card and for the processor: with the feature `cuda-sim` they
//! are compiled for the processor, where the tests run them.
//!
//! A frame is a list of launches over memory that was allocated before ([`frame`]); an
//! [`executor::Executor`] runs it. There is one for the processor, and none for a card yet.
#![allow(
    dead_code,
    reason = "executors and counters that only tests look at until a card has one too"
)]

pub(crate) mod args;
pub(crate) mod attention;
pub(crate) mod executor;
pub(crate) mod frame;
pub(crate) mod product;
pub(crate) mod shape;
#[cfg(feature = "cuda-sim")]
pub(crate) mod sim;
#[cfg(feature = "cuda-sim")]
pub(crate) mod sim_executor;
#[cfg(all(test, feature = "cuda-sim"))]
mod tests;

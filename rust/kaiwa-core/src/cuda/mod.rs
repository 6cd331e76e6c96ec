//! CUDA kernels of our own (the folder `cuda` of this crate), and what runs them.
//!
//! The kernels are one source for a card and for the processor: with the feature `cuda-sim` they
//! are compiled for the processor, where the tests run them.
#![allow(
    dead_code,
    reason = "only tests run kernels until a backend is made of them"
)]

pub(crate) mod args;
pub(crate) mod attention;
pub(crate) mod product;
pub(crate) mod shape;
#[cfg(feature = "cuda-sim")]
pub(crate) mod sim;
#[cfg(all(test, feature = "cuda-sim"))]
mod tests;

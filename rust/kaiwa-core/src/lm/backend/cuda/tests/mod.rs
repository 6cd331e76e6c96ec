//! The device backend on our own kernels, run on the processor.
#![allow(clippy::unwrap_used)]

mod draws;
mod frames;
mod whole_frames;

//! Kaiwa's core: full-duplex speech models as batched streaming inference.
//!
//! Knows tensors, audio and slots; no Python, no network.

pub mod audio;
pub mod checkpoint;
pub mod codec;
pub mod cpu;
pub mod device;
pub mod engine;
pub mod error;
pub mod lm;
pub mod pipeline;

pub use error::{Error, ErrorKind, Result};

//! Moshi's language model: text and audio streams in, the next frame of both out.
//!
//! `config` and `tensors` say what a model is, `stream` how a conversation advances (delays,
//! sampling), and a [`backend`] does the arithmetic. Section numbers in comments are those of the
//! project's specifications "moshi-lm.md" and "checkpoints.md".

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the stream that calls it is to come")
)]
mod backend;
mod config;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the stream that chooses a backend is to come")
)]
mod device;
mod tensors;

pub use config::{Condition, DepthConfig, Gating, LmConfig, Norm, Rope, Sampling};
pub use tensors::{Encoding, LmTensors, RawRows, TensorInfo};

//! Moshi's language model: text and audio streams in, the next frame of both out.
//!
//! `config` and `tensors` say what a model is, `stream` how a conversation advances (delays,
//! sampling), and a [`backend`] does the arithmetic. Section numbers in comments are those of the
//! specifications docs/spec/moshi.md and docs/spec/checkpoints.md.

mod backend;
mod checkpoint;
mod conditioning;
mod config;
mod config_json;
pub mod convert;
mod delays;
#[cfg(test)]
mod independence;
mod moshi;
mod quantise;
mod random;
mod sampling;
mod schema;
mod stream;
pub mod synth;
mod tensors;

pub use checkpoint::{Layout, LmCheckpoint};
pub use config::{
    Condition, DepthConfig, FeedForward, LmConfig, Norm, NormKind, Rope, Sampling,
    SpeechToTextConfig,
};
pub use config_json::Envelope;
pub use moshi::{Moshi, MoshiOptions, available_memory};
pub use stream::{Logits, MAX_SLOTS, MoshiStream, StepInput, StepOutput, check_sampling};
pub use tensors::{LmTensors, TensorInfo};

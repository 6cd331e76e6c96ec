//! Kaiwa's core: full-duplex speech models as batched streaming inference.
//!
//! Knows tensors, audio and slots; no Python, no network. Each module uses only those below it:
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | conversations: sessions, admission, pacing, and the thread that steps |
//! | [`pipeline`] | what a step does, a file for each family of models |
//! | [`codec`], [`lm`] | Mimi and Moshi: configuration, tensors, streams of slots, and a folder for each backend |
//! | [`audio`] | Ogg, Opus, resampling |
//! | [`cpu`], [`device`] | kernels on plain slices; opening CUDA and Metal devices |
//! | `cuda` | CUDA kernels of our own: their arguments, frames as lists of launches, and what runs these |
//! | [`checkpoint`] | files of weights: safetensors, GGUF |
//! | [`formats`] | how weights, keys and values are held: one name for each choice |
//! | [`error`] | one enum for all of them |
//!
//! # How a frame travels
//!
//! A session of the [`engine`] takes a caller's bytes, and [`audio`] makes frames of 80 ms of them.
//! When a step begins, the engine gathers a frame of every session that has one and gives them to
//! its [`pipeline`]: the [`codec`] turns audio into codes, the [`lm`] reads them and chooses the
//! next text token and codes, and the codec turns those into audio. The answers go back to their
//! sessions, and as Opus to the callers.
//!
//! # How a tensor is loaded
//!
//! [`checkpoint`] opens a file and checks every promise of its header. [`codec`] or [`lm`] finds out
//! which layout it has, compares the complete set of names and shapes with the configuration, and
//! gives tensors one after the other to the backend, which packs each into the form that its
//! kernels read. The weights never change afterwards, and all streams share them.

// The tests' helpers are shared with tests of the public face, which name the crate.
#[cfg(test)]
extern crate self as kaiwa_core;

pub mod audio;
pub mod checkpoint;
pub mod codec;
pub mod cpu;
#[cfg(any(feature = "cuda", feature = "cuda-sim"))]
mod cuda;
pub mod device;
pub mod engine;
pub mod error;
pub mod formats;
mod json;
pub mod lm;
pub mod pipeline;

pub use error::{Error, ErrorKind, Result};

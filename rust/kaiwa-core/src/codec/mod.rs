//! Mimi, the streaming neural codec: 24 kHz audio to 12.5 code columns a second and back.

pub mod backend;
mod config;
mod config_hf;
mod config_json;
mod expected;
mod mimi;
mod names;
mod names_hint;
mod spellings;
mod stream;

pub use config::{MimiConfig, QuantizerConfig, SeanetConfig, TransformerConfig};
pub use mimi::{Mimi, WeightType};
pub use names::MimiTensors;
pub use stream::{MimiStream, Window};

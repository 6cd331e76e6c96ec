//! Mimi, the streaming neural codec: 24 kHz audio to 12.5 code columns a second and back.
//!
//! [`Mimi`] is the weights, with calls on whole signals; [`MimiStream`] is running conversations
//! over them. Both check what they are given and leave the arithmetic to a backend
//! (`backend::CodecBackend`), which is chosen by the [`Device`](crate::device::Device).

mod backend;
mod checks;
mod config;
mod config_json;
mod expected;
mod mimi;
mod names;
mod names_hint;
mod spellings;
mod stream;
mod weight_type;
mod whole_signal;
mod window;

pub use config::{MimiConfig, QuantizerConfig, SeanetConfig, TransformerConfig};
pub use mimi::Mimi;
pub use names::MimiTensors;
pub use stream::MimiStream;
pub use weight_type::WeightType;
pub use window::Window;

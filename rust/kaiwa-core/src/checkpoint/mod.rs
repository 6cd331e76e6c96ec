//! Weight files: read strictly, one tensor at a time, without trusting a byte.
//!
//! [`SafeTensorsFile`] knows the container only; which tensors a model wants, and under which
//! names, is the business of `codec`.

pub(crate) mod encoding;
pub(crate) mod finite;
pub(crate) mod ggml;
mod gguf;
mod header;
mod safetensors;
mod sniff;
mod source;

pub use encoding::{Encoding, RawRows};
pub use gguf::{GgufEntry, GgufFile};
pub use header::{Dtype, TensorEntry};
pub use safetensors::{SafeTensorsFile, Summary, TensorSummary};

//! A language model's checkpoint: any published layout, read through one interface
//! (docs/spec/checkpoints.md).
//!
//! Opening checks the complete set of names and shapes against the configuration; no weight is
//! read before that.

mod affine;
mod files;
mod hint;
pub(in crate::lm) mod layout;
mod lora;
mod open;
mod read;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use layout::Layout;

use files::Files;
use lora::Adapter;

use super::LmConfig;
use crate::checkpoint::Encoding;
use crate::error::Result;

/// An open checkpoint.
pub struct LmCheckpoint {
    config: LmConfig,
    layout: Layout,
    files: Files,
    names: Vec<String>,
    places: HashMap<String, Place>,
    adapter: Option<Adapter>,
    /// Of adapters, by the model's own configuration.
    lora_scaling: Option<f64>,
    warnings: Vec<String>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Place {
    /// Name in the file.
    name: String,
    /// Its first row in the file's tensor.
    first: usize,
    rows: usize,
    cols: usize,
    encoding: Encoding,
    /// Names of scales and biases, where there are any.
    scales: Option<String>,
    biases: Option<String>,
}

impl LmCheckpoint {
    /// Opens the files of a model: one GGUF, or one or several safetensors with names of their
    /// own. Without a configuration only the released 7B (or its sixteen-step relative) is
    /// recognised.
    ///
    /// # Errors
    /// Those of opening files; [`crate::Error::Config`];
    /// [`crate::Error::TensorNames`], [`crate::Error::TensorShape`] and
    /// [`crate::Error::TensorDtype`] where the file is not the model of the configuration.
    pub fn open(files: &[PathBuf], config_json: Option<&str>) -> Result<Self> {
        open::open(files, config_json)
    }

    /// The same model with an adapter, merged while its tensors are read (docs/spec/checkpoints.md
    /// 6).
    ///
    /// # Errors
    /// As for [`Self::open`]; [`crate::Error::WrongFile`] if the adapter is of another model.
    pub fn with_lora(self, file: &Path, adapter_config_json: Option<&str>) -> Result<Self> {
        lora::merge(self, file, adapter_config_json)
    }

    /// The layout of the file.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What is odd about the checkpoint but does not keep it from running.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

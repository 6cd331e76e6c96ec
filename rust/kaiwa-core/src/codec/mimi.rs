//! The codec's weights as callers see them.

use std::path::Path;
use std::sync::Arc;

use super::backend::{self, CodecBackend};
use super::config::MimiConfig;
use super::names::MimiTensors;
use super::weight_type::WeightType;
use crate::device::Device;
use crate::error::{Error, Result};

/// Mimi's weights, shared and immutable. Cheap to clone; running state lives in
/// [`MimiStream`](super::MimiStream).
#[derive(Clone)]
pub struct Mimi {
    pub(super) config: Arc<MimiConfig>,
    pub(super) num_codebooks: usize,
    pub(super) device: Device,
    pub(super) dtype: WeightType,
    pub(super) backend: Arc<dyn CodecBackend>,
}

impl Mimi {
    /// Loads a safetensors file. `num_codebooks` (1..=`config.quantizer.n_q`) is what `encode`
    /// gives out; decoding takes any number up to the file's.
    pub fn load(
        path: &Path,
        config: MimiConfig,
        num_codebooks: usize,
        device: Device,
        dtype: WeightType,
    ) -> Result<Self> {
        let max = config.quantizer.n_q;
        if num_codebooks == 0 || num_codebooks > max {
            return Err(Error::CodebookCount {
                got: num_codebooks,
                max,
            });
        }
        let mut tensors = MimiTensors::open(path, &config)?;
        let backend = backend::load(&mut tensors, &config, device, dtype)?;
        tensors.finish()?;
        Ok(Self {
            config: Arc::new(config),
            num_codebooks,
            device,
            dtype,
            backend,
        })
    }

    /// The configuration the weights were read with.
    pub fn config(&self) -> &MimiConfig {
        &self.config
    }

    /// Codebooks given out by `encode`.
    pub fn num_codebooks(&self) -> usize {
        self.num_codebooks
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How the network's weights are held.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }
}

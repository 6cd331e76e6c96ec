//! The codec as callers see it: weights, whole-signal calls, and streams over them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::native::NativeMimi;
use super::stream::{MimiStream, Window};
use super::{MimiConfig, MimiTensors};
use crate::error::{Error, Result};

/// Where the arithmetic runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Own kernels on the processor.
    Cpu,
    /// Candle's operators on the processor: slow, for comparison and tests.
    CandleCpu,
    /// Candle on a CUDA device.
    Cuda(usize),
    /// Candle on a Metal device.
    Metal(usize),
}

impl Device {
    /// Parses `auto`, `cpu`, `candle-cpu`, `cuda`, `cuda:N`, `metal`, `metal:N`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" | "cpu" => Ok(Self::Cpu),
            _ => Err(Error::OptionValue {
                name: "device",
                got: format!("{text:?}"),
                allowed: "\"auto\", \"cpu\", \"cuda\", \"cuda:N\" or \"metal\"".into(),
            }),
        }
    }

    /// The name [`Self::parse`] reads back.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::CandleCpu => "candle-cpu".into(),
            Self::Cuda(n) => format!("cuda:{n}"),
            Self::Metal(n) => format!("metal:{n}"),
        }
    }
}

/// How the network's weights are held. The quantiser is f32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Exact.
    F32,
    /// Half the memory traffic; arithmetic stays f32.
    Bf16,
}

impl WeightType {
    /// Parses `float32` or `bfloat16`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "float32" => Ok(Self::F32),
            "bfloat16" => Ok(Self::Bf16),
            _ => Err(Error::OptionValue {
                name: "dtype",
                got: format!("{text:?}"),
                allowed: "\"float32\" or \"bfloat16\"".into(),
            }),
        }
    }

    /// The name [`Self::parse`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Mimi's weights, shared and immutable. Cheap to clone; running state lives in [`MimiStream`].
#[derive(Clone)]
pub struct Mimi {
    pub(super) config: Arc<MimiConfig>,
    pub(super) num_codebooks: usize,
    pub(super) device: Device,
    pub(super) dtype: WeightType,
    pub(super) native: Arc<NativeMimi>,
}

/// Called between pieces of a long call with (done, total) frames; `Break` stops the call.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

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
            return Err(Error::CodebookCount { got: num_codebooks, max });
        }
        let mut tensors = MimiTensors::open(path, &config)?;
        let native = NativeMimi::load(&mut tensors, &config, dtype)?;
        tensors.finish()?;
        Ok(Self { config: Arc::new(config), num_codebooks, device, dtype, native: Arc::new(native) })
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

    /// A stream of `slots` independent conversations.
    pub fn stream(&self, slots: usize, window: Window) -> Result<MimiStream> {
        MimiStream::new(self.clone(), slots, window)
    }

    /// Codes of whole signals: `pcm` is `[batch, samples]`, the result `[batch, num_codebooks,
    /// ceil(samples / frame_size)]`, row-major.
    pub fn encode(&self, _pcm: &[f32], _batch: usize, _progress: Progress<'_>) -> Result<Vec<u32>> {
        Err(Error::Interrupted)
    }

    /// The latent before quantisation, `[batch, dimension, frames]`, row-major.
    pub fn encode_to_latent(
        &self,
        _pcm: &[f32],
        _batch: usize,
        _progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        Err(Error::Interrupted)
    }

    /// Audio of whole code sequences: `codes` is `[batch, codebooks, frames]` with any number of
    /// codebooks the file holds, the result `[batch, frames * frame_size]`.
    pub fn decode(
        &self,
        _codes: &[i64],
        _batch: usize,
        _codebooks: usize,
        _progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        Err(Error::Interrupted)
    }
}

//! The language model as callers see it: weights, shared and immutable.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::backend::LmBackend;
use super::backend::candle::{CandleLm, CandleOptions};
use super::backend::cpu::CpuLm;
#[cfg(any(feature = "cuda", feature = "cuda-sim"))]
use super::backend::cuda::CudaLm;
use super::conditioning::Conditions;
use super::{LmConfig, LmTensors};

use crate::checkpoint::Encoding;
#[cfg(feature = "cuda")]
use crate::cuda::queue::Mode;
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::device::cuda_path::CudaPath;
use crate::error::Result;
use crate::formats::{KvFormat, WeightFormat};

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct MoshiOptions {
    /// Where the arithmetic runs.
    pub device: Device,
    /// How matrices are held; `None` keeps the file's own form.
    pub weights: Option<WeightFormat>,
    /// How keys and values are held; `None` is f32 for weights in f32, asked for or as the file has
    /// them, and bf16 otherwise.
    pub kv: Option<KvFormat>,
}

impl Default for MoshiOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            weights: None,
            kv: None,
        }
    }
}

/// Bytes of memory that a model can take without swapping; `None` where the system does not say.
/// Loading on the processor refuses a model that needs more.
pub fn available_memory() -> Option<u64> {
    crate::cpu::available_memory()
}

/// A language model's weights. Cheap to clone; running state lives in [`MoshiStream`].
#[derive(Clone)]
pub struct Moshi {
    config: Arc<LmConfig>,
    device: Device,
    kv: KvFormat,
    conditions: Arc<Conditions>,
    backend: Arc<dyn LmBackend>,
}

/// Called while a model loads with (bytes done, bytes in all); `Break` stops.
pub type LoadProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

impl Moshi {
    /// Reads every weight.
    ///
    /// # Errors
    /// Those of reading a file; [`Error::OptionValue`] for a form that the device does not have;
    /// [`Error::DeviceUnavailable`]; [`Error::Interrupted`] if `progress` says so. On a CUDA card
    /// [`crate::device::cuda_path`] says with which kernels.
    pub fn load(
        tensors: &dyn LmTensors,
        options: &MoshiOptions,
        progress: LoadProgress<'_>,
    ) -> Result<Self> {
        let weights = options.weights;
        let exact = match weights {
            None => tensors.info("text_linear.weight")?.encoding == Encoding::F32,
            Some(weights) => weights == WeightFormat::F32,
        };
        let kv = options.kv.unwrap_or(match exact {
            true => KvFormat::F32,
            false => KvFormat::Bf16,
        });
        let conditions = Conditions::load(tensors)?;
        let backend: Arc<dyn LmBackend> = match options.device {
            Device::Cpu => Arc::new(CpuLm::load(tensors, weights, kv, progress)?),
            #[cfg(feature = "cuda-sim")]
            Device::CudaSim => {
                let executor = crate::cuda::sim_executor();
                Arc::new(CudaLm::load(executor, tensors, weights, kv, progress)?)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if CudaPath::chosen()? != CudaPath::Candle => {
                let mode = match CudaPath::chosen()? {
                    CudaPath::OwnEager => Mode::Eager,
                    _ => Mode::Graph,
                };
                let executor = crate::cuda::card_executor(options.device.open()?, mode)?;
                Arc::new(CudaLm::load(executor, tensors, weights, kv, progress)?)
            }
            device => {
                let options = CandleOptions { weights, kv };
                Arc::new(CandleLm::load(tensors, device, &options, progress)?)
            }
        };
        Ok(Self {
            config: Arc::new(tensors.config().clone()),
            device: options.device,
            kv,
            conditions: Arc::new(conditions),
            backend,
        })
    }

    /// On a simulated card of a test.
    #[cfg(all(test, feature = "cuda-sim"))]
    pub(crate) fn on_simulator(
        card: &crate::cuda::sim_driver::SimExecutor,
        tensors: &dyn LmTensors,
    ) -> Result<Self> {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let kv = KvFormat::Bf16;
        let backend = CudaLm::load(card.executor(), tensors, None, kv, &mut go_on)?;
        Ok(Self {
            config: Arc::new(tensors.config().clone()),
            device: Device::CudaSim,
            kv,
            conditions: Arc::new(Conditions::load(tensors)?),
            backend: Arc::new(backend),
        })
    }

    /// The sizes of the model.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How keys and values are held.
    pub fn kv(&self) -> KvFormat {
        self.kv
    }

    /// How most matrices are held.
    pub fn weights(&self) -> WeightFormat {
        self.backend.weights()
    }

    /// Bytes of weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.backend.weight_bytes()
    }

    /// Bytes of weights that a step reads, by stage; empty where it is not known.
    pub fn step_bytes(&self) -> Vec<(&'static str, usize)> {
        self.backend.step_bytes()
    }

    pub(super) fn backend(&self) -> &Arc<dyn LmBackend> {
        &self.backend
    }

    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }
}

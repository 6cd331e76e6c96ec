//! Moshi on CUDA kernels of our own (`crate::cuda`): a whole frame, sampling included, is one list
//! of launches that an executor runs.
//!
//! A stream has such a list for 1, 2, 4, ... rows; a step takes the smallest that its rows fit in and
//! fills up with rows that are none. Positions, slots, tokens and settings travel in one block of
//! bytes, tokens and flags come back in another. Activations are f32.
//!
//! Nothing of this has run on a card yet; tests run it over the simulator.

mod depth;
mod draw;
mod io;
mod layer;
mod load;
mod matrix;
mod norm;
mod rings;
mod room;
mod state;
mod state_memory;
mod tables;
mod temporal;
#[cfg(all(test, feature = "cuda-sim"))]
mod tests;
mod workspace;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::depth::Depth;
use self::load::Loader;
pub(crate) use self::state::CudaState;
use self::temporal::Temporal;
use super::{LmBackend, LmState};
use crate::cuda::executor::Executor;
use crate::error::{Error, Result};
use crate::formats::{KvFormat, WeightFormat};
use crate::lm::{LmConfig, LmTensors};

/// A language model's weights on a device; shared by all streams.
pub(crate) struct CudaLm {
    config: LmConfig,
    executor: Arc<dyn Executor>,
    kv: KvFormat,
    temporal: Temporal,
    depth: Option<Depth>,
    bytes: usize,
}

impl CudaLm {
    /// Reads every weight, packs it and puts it on the device of `executor`. Matrices are held as on
    /// the processor (`None` keeps the file's integers); embedding tables as bf16 where the file has
    /// them so, else as f32.
    ///
    /// `progress` is called with the numbers read and to be read, after every tensor; it may stop
    /// the loading.
    ///
    /// # Errors
    /// Those of [`LmTensors`]; [`Error::OptionValue`] for sizes that no kernel is made for;
    /// [`Error::Interrupted`]; [`Error::Backend`] if the device has no room; [`Error::DeviceLost`].
    pub(crate) fn load(
        executor: Arc<dyn Executor>,
        tensors: &dyn LmTensors,
        weights: Option<WeightFormat>,
        kv: KvFormat,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let config = tensors.config().clone();
        let mut loader = Loader::new(tensors, executor.clone(), weights, progress)?;
        let temporal = Temporal::load(&mut loader, &config)?;
        let depth = config.depth.as_ref();
        let depth = depth.map(|depth| Depth::load(&mut loader, &config, depth));
        let (depth, bytes) = (depth.transpose()?, loader.finish()?);
        let model = Self {
            temporal,
            depth,
            bytes,
            kv,
            config,
            executor,
        };
        rings::check(&model.config, kv)?;
        Ok(model)
    }
}

impl LmBackend for CudaLm {
    fn state(self: Arc<Self>, slots: usize) -> Result<Box<dyn LmState>> {
        Ok(Box::new(CudaState::new(self, slots)?))
    }

    fn weight_bytes(&self) -> usize {
        self.bytes
    }

    fn weights(&self) -> WeightFormat {
        self.temporal.weights()
    }
}

/// A model that these kernels were not made for.
fn unsupported(what: String) -> Error {
    Error::OptionValue {
        name: "KAIWA_CUDA",
        got: format!("own, for a model with {what}"),
        allowed: "candle for this model".into(),
    }
}

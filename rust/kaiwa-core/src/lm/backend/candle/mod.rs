//! Moshi on Candle's operators, for CUDA and Metal (and, for tests, Candle on the processor).
//!
//! A step works on the active slots only: their rows are one batch in every product, and the
//! attention reads their rings in place, a run of neighbouring slots at a time. Positions,
//! rotations, masks and ring places are worked out on the host. Activations, norms, softmax and
//! logits are f32; products are made in the type of the weights, and those of the attention in
//! the type of the rings.
//!
//! Only operators with kernels on all three devices are used, within these limits: `scatter_set`
//! and `slice_set` on contiguous tensors (or runs of their first axis) of f32 or bf16 with u32
//! places; products of contiguous matrices, their transposes, and runs of their first axis;
//! `rope`, `rope_i`, `rms_norm` and `softmax_last_dim` on contiguous f32; products with GGML
//! blocks on contiguous f32 that begin their storage. bf16 is stored but never multiplied on the
//! processor.

mod depth;
mod heads;
mod kv;
mod layer;
mod linear;
mod norm;
mod reblock;
mod state;
mod temporal;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::DType;

use self::depth::Depth;
use self::state::CandleState;
use self::temporal::Temporal;
use self::weights::Loader;
use super::host_sampled::HostSampled;
use super::{LmBackend, LmState};
use crate::device::{Device, OpenDevice};
use crate::error::{Error, Result};
use crate::formats::{KvFormat, WeightFormat};
use crate::lm::{LmConfig, LmTensors};

/// How a model is held on its device. Vectors are f32, embedding tables stay as their file has
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CandleOptions {
    /// `F32`: exactly the file's values. `Bf16`: rounded to bf16; on Candle's processor device in
    /// f32, which is the same arithmetic. `Int8`: Q8_0 blocks, or the file's own integers;
    /// matrices with other than a multiple of 32 inputs as with `Bf16`. `Int4`: Q4_0 blocks, or
    /// MLX's own 4-bit integers; otherwise likewise. `None`: integers as they are, in GGML blocks
    /// (GGUF's that an adapter changes are quantised again); everything else as bf16, or on
    /// Candle's processor device exactly, in f32.
    pub weights: Option<WeightFormat>,
    /// With `Bf16` the attention's products on CUDA and Metal are bf16 too, with scores rounded to
    /// bf16; on the processor the stored values are widened. `Int8` is refused.
    pub kv: KvFormat,
}

/// A language model's weights on a device; shared by all streams.
pub(crate) struct CandleLm {
    config: LmConfig,
    device: OpenDevice,
    kv: DType,
    temporal: Temporal,
    depth: Option<Depth>,
    bytes: usize,
}

impl CandleLm {
    /// Reads every weight and puts it on `device`; both kinds of processor device give Candle's.
    ///
    /// `progress` is called with the numbers read and to be read, after every tensor; it may
    /// stop the loading.
    ///
    /// # Errors
    /// Those of [`LmTensors`], [`Error::OptionValue`], [`Error::DeviceUnavailable`], [`Error::Interrupted`], and
    /// [`Error::Backend`] if the device has no room.
    pub(crate) fn load(
        tensors: &dyn LmTensors,
        device: Device,
        options: &CandleOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let kv = match options.kv {
            KvFormat::F32 => DType::F32,
            KvFormat::Bf16 => DType::BF16,
            KvFormat::Int8 => {
                return Err(Error::OptionValue {
                    name: "kv_dtype",
                    got: format!("{:?} on {}", options.kv.name(), device.name()),
                    allowed: "\"bfloat16\" or \"float32\" (int8 is for device=\"cpu\")".into(),
                });
            }
        };
        Self::load_on(device.open()?, tensors, options.weights, kv, progress)
    }

    /// The same on a device that is open.
    fn load_on(
        device: OpenDevice,
        tensors: &dyn LmTensors,
        weights: Option<WeightFormat>,
        kv: DType,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let config = tensors.config().clone();
        let (temporal, depth, bytes) = device.run(|candle| {
            let mut loader = Loader::new(tensors, candle, weights, progress)?;
            let temporal = Temporal::load(&mut loader, &config)?;
            let depth = config.depth.as_ref();
            let depth = depth.map(|depth| Depth::load(&mut loader, &config, depth));
            Ok((temporal, depth.transpose()?, loader.finish()?))
        })?;
        Ok(Self {
            temporal,
            depth,
            bytes,
            kv,
            config,
            device,
        })
    }
}

impl LmBackend for CandleLm {
    fn state(self: Arc<Self>, slots: usize) -> Result<Box<dyn LmState>> {
        let state = CandleState::new(self.clone(), slots)?;
        Ok(Box::new(HostSampled::new(state, &self.config)))
    }

    fn weight_bytes(&self) -> usize {
        self.bytes
    }

    fn weights(&self) -> WeightFormat {
        self.temporal.weights()
    }
}

impl Drop for CandleLm {
    fn drop(&mut self) {
        self.device.prepare_drop();
    }
}

/// A call that the stream never makes, or tensors that their reader never gives.
fn internal_error(what: &str) -> Error {
    Error::Backend(candle_core::Error::Msg(what.into()))
}

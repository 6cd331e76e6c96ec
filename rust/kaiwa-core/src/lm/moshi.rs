//! The language model as callers see it: weights, shared and immutable.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::backend::LmBackend;
use super::backend::candle::{CandleKv, CandleLm, CandleOptions, CandleWeights};
use super::backend::cpu::{CpuLm, Hold};
use super::conditioning::Conditions;
use super::stream::MoshiStream;
use super::{LmConfig, LmTensors, Sampling};
use crate::cpu::KvBits;
use crate::device::Device;
use crate::error::{Error, Result};

/// Makes an enum of options with names.
macro_rules! named {
    ($(#[$doc:meta])* $kind:ident $option:literal { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$vdoc])* $variant,)*
        }

        impl $kind {
            /// Parses a name.
            ///
            /// # Errors
            /// [`Error::OptionValue`] with the names there are.
            pub fn parse(text: &str) -> Result<Self> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(Error::OptionValue {
                        name: $option,
                        got: format!("{text:?}"),
                        allowed: [$(concat!("\"", $name, "\"")),*].join(" or "),
                    }),
                }
            }

            /// The name [`Self::parse`] reads back.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

named! {
    /// How dense matrices are held. Quantised files are dequantised when one of these is asked for.
    LmDtype "dtype" {
        /// Exact.
        F32 = "float32",
        /// Half the memory; arithmetic stays f32.
        Bf16 = "bfloat16",
    }
}

named! {
    /// Rounding of matrices while they are loaded.
    Quantize "quantize" {
        /// 8-bit integers, 32 to a scale (8.5 bits a weight).
        Int8 = "int8",
        /// 4-bit integers, 32 to a scale (4.5 bits a weight).
        Int4 = "int4",
    }
}

named! {
    /// How keys and values are stored.
    KvType "kv_dtype" {
        /// Exact.
        F32 = "float32",
        /// Half of that.
        Bf16 = "bfloat16",
        /// A quarter, with a scale per position and head.
        Int8 = "int8",
    }
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct MoshiOptions {
    /// Where the arithmetic runs.
    pub device: Device,
    /// How matrices are held; `None` keeps the file's own form, quantised forms included.
    pub dtype: Option<LmDtype>,
    /// Rounding of matrices; files that are as coarse already stay as they are.
    pub quantize: Option<Quantize>,
    /// Storage of keys and values; `None` is f32 for `dtype` f32 and bf16 otherwise.
    pub kv: Option<KvType>,
}

impl Default for MoshiOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: None,
            quantize: None,
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
    kv: KvType,
    conditions: Arc<Conditions>,
    backend: Arc<dyn LmBackend>,
}

/// Called while a model loads with (bytes done, bytes in all); `Break` stops.
pub type LoadProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

impl Moshi {
    /// Reads every weight.
    ///
    /// # Errors
    /// Those of reading a file; [`Error::OptionValue`] if both `dtype` and `quantize` are given;
    /// [`Error::DeviceUnavailable`]; [`Error::Interrupted`] if `progress` says so.
    pub fn load(
        tensors: &dyn LmTensors,
        options: &MoshiOptions,
        progress: LoadProgress<'_>,
    ) -> Result<Self> {
        let hold = match (options.dtype, options.quantize) {
            (None, None) => Hold::AsFile,
            (Some(LmDtype::F32), None) => Hold::F32,
            (Some(LmDtype::Bf16), None) => Hold::Bf16,
            (None, Some(Quantize::Int8)) => Hold::Int8,
            (None, Some(Quantize::Int4)) => Hold::Int4,
            (Some(dtype), Some(quantize)) => {
                return Err(Error::OptionValue {
                    name: "dtype",
                    got: format!(
                        "{:?} together with quantize={:?}",
                        dtype.name(),
                        quantize.name()
                    ),
                    allowed: "one of the two: dtype is for matrices that are not quantised".into(),
                });
            }
        };
        let kv = options.kv.unwrap_or(match hold {
            Hold::F32 => KvType::F32,
            _ => KvType::Bf16,
        });
        let conditions = Conditions::load(tensors)?;
        let backend: Arc<dyn LmBackend> = match options.device {
            Device::Cpu => {
                let bits = match kv {
                    KvType::F32 => KvBits::F32,
                    KvType::Bf16 => KvBits::Bf16,
                    KvType::Int8 => KvBits::Int8,
                };
                Arc::new(CpuLm::load(tensors, hold, bits, progress)?)
            }
            device => {
                let weights = match hold {
                    Hold::AsFile => CandleWeights::AsFile,
                    Hold::F32 => CandleWeights::F32,
                    Hold::Bf16 => CandleWeights::Bf16,
                    Hold::Int8 => CandleWeights::Q8,
                    Hold::Int4 => CandleWeights::Q4,
                };
                let kv = match kv {
                    KvType::F32 => CandleKv::F32,
                    KvType::Bf16 => CandleKv::Bf16,
                    KvType::Int8 => {
                        return Err(Error::OptionValue {
                            name: "kv_dtype",
                            got: format!("{:?} on {}", kv.name(), device.name()),
                            allowed: "\"bfloat16\" or \"float32\" (int8 is for device=\"cpu\")"
                                .into(),
                        });
                    }
                };
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

    /// The sizes of the model.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How keys and values are stored.
    pub fn kv(&self) -> KvType {
        self.kv
    }

    /// How most matrices are held: `float32`, `bfloat16`, `int8` or `int4`.
    pub fn weights(&self) -> String {
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

    /// A stream of independent conversations, one per entry: each with a seed and sampling
    /// settings of its own.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for no or too many slots, lists of different lengths, or settings
    /// outside their range.
    pub fn stream(&self, seeds: &[u64], sampling: &[Sampling]) -> Result<MoshiStream> {
        MoshiStream::new(self.clone(), seeds, sampling)
    }

    pub(super) fn backend(&self) -> &Arc<dyn LmBackend> {
        &self.backend
    }

    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }
}

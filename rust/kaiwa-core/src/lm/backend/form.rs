//! What a matrix becomes when it is loaded by a backend that multiplies integers as files have them.

use crate::checkpoint::Encoding;
use crate::formats::WeightFormat;
use crate::lm::TensorInfo;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The file's integers.
    Raw,
    F32,
    Bf16,
    /// Blocks of 32 with a scale: Q8_0, Q4_0.
    Int8,
    Int4,
}

impl Form {
    /// `bits` are those of the file's integers, where the backend multiplies them as they are.
    pub(super) fn of(weights: Option<WeightFormat>, info: &TensorInfo, bits: Option<u8>) -> Self {
        let blocks = info.cols.is_multiple_of(32);
        match (weights, bits.filter(|_| !info.merged)) {
            (Some(WeightFormat::F32), _) => Self::F32,
            (Some(WeightFormat::Bf16), _) => Self::Bf16,
            (Some(WeightFormat::Int4), Some(4)) => Self::Raw,
            (None | Some(WeightFormat::Int8), Some(_)) => Self::Raw,
            (Some(WeightFormat::Int8), None) if blocks => Self::Int8,
            (Some(WeightFormat::Int4), _) if blocks => Self::Int4,
            (Some(WeightFormat::Int8 | WeightFormat::Int4), _) => Self::Bf16,
            (None, None) => match info.encoding {
                Encoding::F32 | Encoding::F16 => Self::F32,
                Encoding::Bf16 => Self::Bf16,
                // Merged with an adapter, or a block type without kernels: the nearest form.
                Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Affine { bits: 4, .. } if blocks => {
                    Self::Int4
                }
                _ if blocks => Self::Int8,
                _ => Self::Bf16,
            },
        }
    }
}

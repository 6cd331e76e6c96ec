//! A matrix and its product.

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Tensor};

use crate::error::Result;
use crate::formats::WeightFormat;

/// A matrix `[outputs, inputs]`, without a bias.
pub(super) enum Linear {
    /// f32 or bf16.
    Dense(Tensor),
    /// GGML blocks. The device quantises each input vector to 8-bit blocks itself (Metal does
    /// not), and wants it in f32 and contiguous. Metal reads several rows from the beginning of
    /// their storage, wherever they begin: inputs must be results of their own, never parts.
    Blocks {
        product: QMatMul,
        bytes: usize,
        correction: Option<Correction>,
    },
}

/// What blocks made of other integers do not say (see [`super::reblock`]).
pub(super) struct Correction {
    /// Factor of every output, `[outputs]`.
    pub factors: Tensor,
    /// Addends of the weights, `[groups, outputs]`, if there are any.
    pub addends: Option<Tensor>,
}

impl Correction {
    /// What `y`, the blocks' product with `x`, stands for.
    fn complete(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let y = y.broadcast_mul(&self.factors)?;
        let Some(addends) = &self.addends else {
            return Ok(y);
        };
        // One addend for all weights of a group: it meets the sum of the group's inputs.
        let ((rows, inputs), groups) = (x.dims2()?, addends.dim(0)?);
        let sums = x.reshape((rows, groups, inputs / groups.max(1)))?.sum(2)?;
        Ok((y + sums.matmul(addends)?)?)
    }
}

impl Linear {
    /// `x [rows, inputs]` f32 to `[rows, outputs]` f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense(weight) => x
                .to_dtype(weight.dtype())?
                .matmul(&weight.t()?)?
                .to_dtype(DType::F32)?,
            Self::Blocks {
                product,
                correction,
                ..
            } => {
                let x = x.contiguous()?;
                let y = product.forward(&x)?;
                match correction {
                    Some(correction) => correction.complete(&x, &y)?,
                    None => y,
                }
            }
        })
    }

    /// How the numbers are held.
    pub(super) fn format(&self) -> WeightFormat {
        match self {
            Self::Dense(weight) if weight.dtype() == DType::F32 => WeightFormat::F32,
            Self::Dense(_) => WeightFormat::Bf16,
            // Of GGML's block types only those of four bits are below this.
            Self::Blocks { product, .. } => match product {
                QMatMul::QTensor(blocks)
                    if blocks.dtype().type_size() * 8 <= 5 * blocks.dtype().block_size() =>
                {
                    WeightFormat::Int4
                }
                _ => WeightFormat::Int8,
            },
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Blocks { bytes, .. } => *bytes,
        }
    }
}

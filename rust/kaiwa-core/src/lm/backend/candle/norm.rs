//! The norms, always in f32 (docs/spec/moshi.md 3.3).

use candle_core::Tensor;
use candle_nn::ops::{layer_norm_slow, rms_norm};

use super::weights::Loader;
use crate::error::Result;
use crate::lm::{self, NormKind};

/// A norm with its weights, `[dim]` each.
pub(super) enum Norm {
    Rms {
        alpha: Tensor,
        eps: f32,
    },
    Layer {
        weight: Tensor,
        bias: Tensor,
        eps: f32,
    },
}

impl Norm {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, norm: lm::Norm) -> Result<Self> {
        let eps = norm.eps;
        Ok(match norm.kind {
            NormKind::Rms => Self::Rms {
                alpha: loader.vector(&format!("{name}.alpha"))?,
                eps,
            },
            NormKind::Layer => Self::Layer {
                weight: loader.vector(&format!("{name}.weight"))?,
                bias: loader.vector(&format!("{name}.bias"))?,
                eps,
            },
        })
    }

    /// `[rows, dim]` to the same; `x` is contiguous, which the fused kernel wants.
    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Rms { alpha, eps } => rms_norm(x, alpha, *eps)?,
            // Two passes over the row: the fused kernels lose digits when the mean is large.
            Self::Layer { weight, bias, eps } => layer_norm_slow(x, weight, bias, *eps)?,
        })
    }
}

//! Norms on the device.

use super::load::Loader;
use crate::cuda::args::{NormArgs, Pointer};
use crate::cuda::executor::Memory;
use crate::cuda::frame::Node;
use crate::cuda::shape::Shape;
use crate::error::Result;
use crate::lm::{self, NormKind};

/// A norm's weights.
pub(super) struct Norm {
    weight: Memory,
    bias: Option<Memory>,
    dim: usize,
    eps: f32,
}

impl Norm {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        norm: lm::Norm,
        dim: usize,
    ) -> Result<Self> {
        let (weight, bias) = match norm.kind {
            NormKind::Rms => (loader.vector(&format!("{name}.alpha"))?, None),
            NormKind::Layer => (
                loader.vector(&format!("{name}.weight"))?,
                Some(loader.vector(&format!("{name}.bias"))?),
            ),
        };
        Ok(Self {
            weight,
            bias,
            dim,
            eps: norm.eps,
        })
    }

    /// Of each of `rows` rows of `x`, into `out`.
    pub(super) fn node(&self, rows: usize, x: Pointer, out: Pointer) -> Node {
        let args = NormArgs {
            x,
            weight: self.weight.start(),
            bias: self.bias.as_ref().map_or(Pointer::NULL, Memory::start),
            out,
            dim: self.dim as i32,
            eps: self.eps,
        };
        // The width alone decides, so that a row's sums have one order.
        let block = (self.dim / 4).next_power_of_two().clamp(32, 512) as u32;
        let shape = Shape {
            grid: [rows as u32, 1, 1],
            block,
            shared: 0,
        };
        Node::new("kaiwa_norm", shape, &args)
    }
}

//! Causal convolutions that carry their past (docs/spec/mimi.md 2.1, 2.2, 2.6, 5.1).
//!
//! Activations are `[slots, channels, steps]`. A layer's output for a piece of signal depends on
//! the piece and the carried history only, so any cutting into calls gives the same signal.

use candle_core::{DType, Tensor};

use super::state::{DirectionState, Masks};
use super::weights::{Loader, matmul};
use crate::error::Result;

/// Widths of a convolution.
#[derive(Clone, Copy)]
pub(super) struct ConvShape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub bias: bool,
    /// The past of a fresh slot repeats its first column instead of being zero.
    pub replicate: bool,
}

/// A strided, dilated convolution.
pub(super) struct Conv {
    /// `[outputs, inputs, kernel]`.
    weight: Tensor,
    /// `[1, outputs, 1]`.
    bias: Option<Tensor>,
    shape: ConvShape,
    /// Columns of history, and where the state keeps them.
    pad: usize,
    carry: Option<usize>,
}

impl Conv {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, shape: ConvShape) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            ..
        } = shape;
        let weight = loader.weight(&format!("{name}.weight"), &[outputs, inputs, kernel])?;
        let bias = load_bias(loader, name, outputs, shape.bias)?;
        let pad = ((kernel - 1) * shape.dilation + 1).saturating_sub(shape.stride);
        let carry = (pad > 0).then(|| loader.carry(inputs, pad));
        Ok(Self {
            weight,
            bias,
            shape,
            pad,
            carry,
        })
    }

    /// `[slots, inputs, steps]` to `[slots, outputs, steps / stride]`; `steps` is a multiple of
    /// the stride.
    pub(super) fn run(
        &self,
        x: &Tensor,
        state: &mut DirectionState,
        masks: &Masks,
    ) -> Result<Tensor> {
        let steps = x.dim(2)?;
        let mut padded = x.clone();
        if let Some(index) = self.carry {
            let carried = state.carry(index)?;
            let past = if self.shape.replicate {
                let first = x.narrow(2, 0, 1)?.broadcast_as(carried.shape())?;
                masks.begin(&first, carried)?
            } else {
                carried.clone()
            };
            padded = Tensor::cat(&[&past, x], 2)?;
            *carried = masks.keep(&padded.narrow(2, steps, self.pad)?, carried)?;
        }
        let ConvShape {
            stride, dilation, ..
        } = self.shape;
        let padded = padded.to_dtype(self.weight.dtype())?;
        let y = padded
            .conv1d(&self.weight, 0, stride, dilation, 1)?
            .to_dtype(DType::F32)?;
        add_bias(y, self.bias.as_ref())
    }
}

/// A transposed convolution whose kernel is twice its stride: every output sees the current and
/// the previous input, so it is one matrix product and one overlapping addition.
pub(super) struct ConvTranspose {
    /// `[inputs, outputs * 2 * stride]`.
    weight: Tensor,
    /// `[1, outputs, 1]`.
    bias: Option<Tensor>,
    outputs: usize,
    stride: usize,
    carry: usize,
}

impl ConvTranspose {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
        stride: usize,
    ) -> Result<Self> {
        let shape = [inputs, outputs, 2 * stride];
        let weight = loader.weight(&format!("{name}.weight"), &shape)?;
        Ok(Self {
            weight: weight.reshape((inputs, outputs * 2 * stride))?,
            bias: load_bias(loader, name, outputs, true)?,
            outputs,
            stride,
            carry: loader.carry(outputs, stride),
        })
    }

    /// `[slots, inputs, steps]` to `[slots, outputs, steps * stride]`.
    pub(super) fn run(
        &self,
        x: &Tensor,
        state: &mut DirectionState,
        masks: &Masks,
    ) -> Result<Tensor> {
        let (slots, inputs, steps) = x.dims3()?;
        let rows = x
            .transpose(1, 2)?
            .contiguous()?
            .reshape((slots * steps, inputs))?;
        let parts = matmul(&rows, &self.weight)?;
        let parts = parts.reshape((slots, steps, self.outputs, 2, self.stride))?;
        let now = parts.narrow(3, 0, 1)?.squeeze(3)?;
        let later = parts.narrow(3, 1, 1)?.squeeze(3)?;
        let y = overlap(&now, &later, self.carry, state, masks)?;
        add_bias(y, self.bias.as_ref())
    }
}

/// The depthwise transposed convolution from frames to latent steps.
pub(super) struct Upsample {
    /// `[1, 1, channels, stride]`: what a frame adds to its own steps.
    now: Tensor,
    /// The same for the next frame's steps.
    later: Tensor,
    carry: usize,
}

impl Upsample {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        channels: usize,
        stride: usize,
    ) -> Result<Self> {
        // Element-wise, so there is nothing to gain from a shorter type; only its rounding.
        let weight = loader.weight(&format!("{name}.weight"), &[channels, 1, 2 * stride])?;
        let weight = weight
            .to_dtype(DType::F32)?
            .reshape((1, 1, channels, 2 * stride))?;
        Ok(Self {
            now: weight.narrow(3, 0, stride)?.contiguous()?,
            later: weight.narrow(3, stride, stride)?.contiguous()?,
            carry: loader.carry(channels, stride),
        })
    }

    /// `[slots, frames, channels]` to `[slots, channels, frames * stride]`.
    pub(super) fn run(
        &self,
        x: &Tensor,
        state: &mut DirectionState,
        masks: &Masks,
    ) -> Result<Tensor> {
        let x = x.unsqueeze(3)?;
        let now = x.broadcast_mul(&self.now)?;
        let later = x.broadcast_mul(&self.later)?;
        overlap(&now, &later, self.carry, state, masks)
    }
}

/// Adds what each input gives to its own outputs (`now`) and what the one before it left for
/// them (`later`, shifted by one; the carry before the first). Both are `[slots, steps, channels,
/// stride]`, the result is `[slots, channels, steps * stride]`.
fn overlap(
    now: &Tensor,
    later: &Tensor,
    carry: usize,
    state: &mut DirectionState,
    masks: &Masks,
) -> Result<Tensor> {
    let (slots, steps, channels, stride) = now.dims4()?;
    let carried = state.carry(carry)?;
    let mut before = carried.unsqueeze(1)?;
    if steps > 1 {
        before = Tensor::cat(&[&before, &later.narrow(1, 0, steps - 1)?], 1)?;
    }
    let y = (now + before)?;
    let last = later.narrow(1, steps - 1, 1)?.squeeze(1)?;
    *carried = masks.keep(&last, carried)?;
    Ok(y.transpose(1, 2)?
        .contiguous()?
        .reshape((slots, channels, steps * stride))?)
}

fn load_bias(
    loader: &mut Loader<'_>,
    name: &str,
    outputs: usize,
    present: bool,
) -> Result<Option<Tensor>> {
    if !present {
        return Ok(None);
    }
    let bias = loader.exact(&format!("{name}.bias"), &[outputs])?;
    Ok(Some(bias.reshape((1, outputs, 1))?))
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(match bias {
        None => y,
        Some(bias) => y.broadcast_add(bias)?,
    })
}

//! Putting weights on a device, and counting the running state that layers will need.

use candle_core::{DType, Device, Tensor};

use crate::codec::names::MimiTensors;
use crate::codec::weight_type::WeightType;
use crate::error::Result;

/// What every layer needs to load itself.
pub(super) struct Loader<'a> {
    tensors: &'a mut MimiTensors,
    device: &'a Device,
    dtype: WeightType,
    /// Shape `[channels, columns]` of every history that layers of the current direction keep.
    carries: Vec<[usize; 2]>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(tensors: &'a mut MimiTensors, device: &'a Device, dtype: WeightType) -> Self {
        let carries = Vec::new();
        Self {
            tensors,
            device,
            dtype,
            carries,
        }
    }

    /// A matrix or kernel of the network, in the wanted weight type.
    ///
    /// Candle multiplies no bf16 matrices on the processor: there the values are rounded to bf16
    /// and kept in f32, which is the same arithmetic at twice the memory.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let exact = self.exact(name, shape)?;
        Ok(match (self.dtype, self.device) {
            (WeightType::F32, _) => exact,
            (WeightType::Bf16, Device::Cpu) => exact.to_dtype(DType::BF16)?.to_dtype(DType::F32)?,
            (WeightType::Bf16, _) => exact.to_dtype(DType::BF16)?,
        })
    }

    /// A tensor that stays f32 whatever the weight type: biases, norms, scales, the quantiser.
    pub(super) fn exact(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.tensors.take(name, shape)?;
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }

    /// Host values, for what is computed once at load.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.tensors.take(name, shape)
    }

    /// The device being loaded onto.
    pub(super) fn device(&self) -> &'a Device {
        self.device
    }

    /// Reserves a history of `columns` columns; gives its index in the state.
    pub(super) fn carry(&mut self, channels: usize, columns: usize) -> usize {
        self.carries.push([channels, columns]);
        self.carries.len() - 1
    }

    /// Ends a direction: all histories reserved since the last call.
    pub(super) fn take_carries(&mut self) -> Vec<[usize; 2]> {
        std::mem::take(&mut self.carries)
    }
}

/// `x [rows, inputs]` times the transpose of `weight [outputs, inputs]`, in f32.
pub(super) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    matmul(x, &weight.t()?)
}

/// `x [rows, inputs]` times `weight [inputs, outputs]` in the weight's type; the result is f32.
pub(super) fn matmul(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(weight.dtype())?
        .matmul(weight)?
        .to_dtype(DType::F32)?)
}

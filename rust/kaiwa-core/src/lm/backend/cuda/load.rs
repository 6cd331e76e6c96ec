//! Reading tensors onto a device.

use std::sync::Arc;

use half::bf16;

use super::matrix::Matrix;
use crate::checkpoint::{Encoding, RawRows};
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::product::{Pairing, pack_raw};
use crate::error::Result;
use crate::formats::WeightFormat;
use crate::lm::backend::form::Form;
use crate::lm::backend::progress::{Progress, Tell};
use crate::lm::quantise::{q4_0_fitted, q8_0};
use crate::lm::{LmTensors, TensorInfo};

/// Values that are converted at a time.
const AT_ONCE: usize = 1 << 20;

/// What every part needs to load itself.
pub(super) struct Loader<'a> {
    tensors: &'a dyn LmTensors,
    executor: Arc<dyn Executor>,
    weights: Option<WeightFormat>,
    progress: Progress<'a>,
}

/// A table of embeddings on the device.
pub(super) struct Table {
    pub data: Memory,
    pub rows: usize,
    pub cols: usize,
    pub bf16: bool,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        tensors: &'a dyn LmTensors,
        executor: Arc<dyn Executor>,
        weights: Option<WeightFormat>,
        progress: Tell<'a>,
    ) -> Result<Self> {
        Ok(Self {
            progress: Progress::of(tensors, progress)?,
            tensors,
            executor,
            weights,
        })
    }

    /// Ends the loading: bytes of everything on the device.
    pub(super) fn finish(self) -> Result<usize> {
        self.progress.finish()
    }

    pub(super) fn executor(&self) -> &Arc<dyn Executor> {
        &self.executor
    }

    /// A matrix; `gated` ones have the rows of a gate, then as many that it is multiplied with.
    pub(super) fn matrix(&mut self, name: &str, gated: bool) -> Result<Matrix> {
        let info = self.tensors.info(name)?;
        let bits = integer_bits(info.encoding).filter(|_| info.cols.is_multiple_of(32));
        let form = Form::of(self.weights, &info, bits);
        let raw_bf16 = info.encoding == Encoding::Bf16 && !info.merged;
        let (encoding, raw) = match form {
            Form::Raw => (info.encoding, self.raw(name, &info)?),
            Form::Bf16 if raw_bf16 => (info.encoding, self.raw(name, &info)?),
            Form::F32 => (Encoding::F32, self.made(name, &info, f32_bytes)?),
            Form::Bf16 => (Encoding::Bf16, self.made(name, &info, bf16_bytes)?),
            Form::Int8 => (Encoding::Q8_0, self.made(name, &info, q8_0)?),
            Form::Int4 => (Encoding::Q4_0, self.made(name, &info, q4_0_fitted)?),
        };
        let pairing = if gated {
            Pairing::GateUp
        } else {
            Pairing::Plain
        };
        let packed = pack_raw(encoding, info.rows, info.cols, &raw, pairing);
        let packed = packed.map_err(|reason| super::unsupported(format!("{name}: {reason}")))?;
        let matrix = Matrix::new(&self.executor, packed, format(form, encoding))?;
        self.progress.count(&info, matrix.bytes())?;
        Ok(matrix)
    }

    /// A vector as f32.
    pub(super) fn vector(&mut self, name: &str) -> Result<Memory> {
        let info = self.tensors.info(name)?;
        let mut values = vec![0f32; info.rows * info.cols];
        self.tensors.read_f32(name, 0..info.rows, &mut values)?;
        let memory = Memory::of_f32(&self.executor, &values)?;
        self.progress.count(&info, memory.bytes())?;
        Ok(memory)
    }

    /// A table of embeddings: bf16 where the file has it so, else f32.
    pub(super) fn table(&mut self, name: &str) -> Result<Table> {
        let info = self.tensors.info(name)?;
        let bf16 = info.encoding == Encoding::Bf16 && !info.merged;
        let raw = if bf16 {
            self.raw(name, &info)?
        } else {
            self.made(name, &info, f32_bytes)?
        };
        let data = Memory::of(&self.executor, &raw.data)?;
        self.progress.count(&info, data.bytes())?;
        Ok(Table {
            data,
            rows: info.rows,
            cols: info.cols,
            bf16,
        })
    }

    /// Rows as they lie in the file, after a look that all are numbers.
    fn raw(&self, name: &str, info: &TensorInfo) -> Result<RawRows> {
        self.made(name, info, |_, _| ())?;
        let mut raw = RawRows::default();
        self.tensors.read_raw(name, 0..info.rows, &mut raw)?;
        Ok(raw)
    }

    /// What `make` appends for the values of some rows after the others.
    fn made(
        &self,
        name: &str,
        info: &TensorInfo,
        make: impl Fn(&[f32], &mut Vec<u8>),
    ) -> Result<RawRows> {
        let step = (AT_ONCE / info.cols.max(1)).max(1);
        let mut raw = RawRows::default();
        let mut values = vec![0f32; step.min(info.rows) * info.cols];
        for first in (0..info.rows).step_by(step) {
            let count = step.min(info.rows - first);
            let values = &mut values[..count * info.cols];
            self.tensors.read_f32(name, first..first + count, values)?;
            make(values, &mut raw.data);
        }
        Ok(raw)
    }
}

fn f32_bytes(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

fn bf16_bytes(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()));
}

/// How a matrix of this form is held.
fn format(form: Form, encoding: Encoding) -> WeightFormat {
    match form {
        Form::F32 => WeightFormat::F32,
        Form::Bf16 => WeightFormat::Bf16,
        Form::Int8 => WeightFormat::Int8,
        Form::Int4 => WeightFormat::Int4,
        Form::Raw => match integer_bits(encoding) {
            Some(4) => WeightFormat::Int4,
            _ => WeightFormat::Int8,
        },
    }
}

/// Bits of integers that the kernels multiply as they are.
fn integer_bits(encoding: Encoding) -> Option<u8> {
    match encoding {
        Encoding::Q8_0 | Encoding::Int8Rows => Some(8),
        Encoding::Q4_0 | Encoding::Q4_1 => Some(4),
        Encoding::Affine { bits, group } if group % 32 == 0 => Some(bits),
        _ => None,
    }
}

//! Reading tensors into the form that the device holds them in.

use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::internal_error;
use super::linear::{Correction, Linear};
use super::reblock::{self, Reblocked};
use crate::checkpoint::encoding::row_bytes;
use crate::checkpoint::finite::{self, Floats};
use crate::checkpoint::ggml;
use crate::checkpoint::{Encoding, RawRows};
use crate::error::Result;
use crate::formats::WeightFormat;
use crate::lm::backend::progress::{Progress, Tell};
use crate::lm::backend::table::Table;
use crate::lm::{LmTensors, TensorInfo};

/// Numbers that are f32 at once while a matrix is converted; per thread.
const AT_ONCE: usize = 1 << 20;

/// What a matrix becomes.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    F32,
    /// Rounded to bf16; held in f32 where the device multiplies no bf16.
    Bf16,
    Blocks(GgmlDType),
    /// The file's integers in blocks of this type.
    Reblocked(GgmlDType),
}

/// What every part needs to load itself.
pub(super) struct Loader<'a> {
    tensors: &'a dyn LmTensors,
    device: &'a Device,
    weights: Option<WeightFormat>,
    progress: Progress<'a>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        tensors: &'a dyn LmTensors,
        device: &'a Device,
        weights: Option<WeightFormat>,
        progress: Tell<'a>,
    ) -> Result<Self> {
        Ok(Self {
            progress: Progress::of(tensors, progress)?,
            tensors,
            device,
            weights,
        })
    }

    /// Ends the loading: bytes of everything loaded, host and device.
    pub(super) fn finish(self) -> Result<usize> {
        self.progress.finish()
    }

    /// A matrix to multiply with.
    ///
    /// # Errors
    /// Those of [`LmTensors`]; [`Error::Interrupted`]; [`Error::Backend`] without room.
    pub(super) fn matrix(&mut self, name: &str) -> Result<Linear> {
        let info = self.tensors.info(name)?;
        let made = match self.form(&info) {
            Form::F32 => Linear::Dense(self.f32(name, &info)?),
            Form::Bf16 => Linear::Dense(self.bf16(name, &info)?),
            Form::Blocks(kind) => self.blocks(name, &info, kind)?,
            Form::Reblocked(kind) => self.reblocked(name, &info, kind)?,
        };
        self.progress.count(&info, made.bytes())?;
        Ok(made)
    }

    /// A vector; f32 whatever the weights are.
    pub(super) fn vector(&mut self, name: &str) -> Result<Tensor> {
        let info = self.tensors.info(name)?;
        let made = self.f32(name, &info)?.flatten_all()?;
        self.progress.count(&info, 4 * made.elem_count())?;
        Ok(made)
    }

    /// An embedding table, kept as it lies in its file. One that an adapter replaces is f32.
    pub(super) fn table(&mut self, name: &str) -> Result<Table> {
        let info = self.tensors.info(name)?;
        let (encoding, rows) = if info.merged {
            let values = self.values(name, &info, info.cols, |from, out| {
                out.copy_from_slice(from);
                Ok(())
            })?;
            let data = values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
            let rows = RawRows {
                data,
                ..RawRows::default()
            };
            (Encoding::F32, rows)
        } else {
            (info.encoding, self.raw(name, &info)?)
        };
        let table = Table::new(encoding, info.rows, info.cols, rows);
        self.progress.count(&info, table.bytes())?;
        Ok(table)
    }

    fn form(&self, info: &TensorInfo) -> Form {
        let coarse = match self.weights {
            None | Some(WeightFormat::Int8) => reblock::kind(info),
            Some(WeightFormat::Int4) => reblock::kind(info).filter(|kind| *kind == GgmlDType::Q4_1),
            Some(WeightFormat::F32) | Some(WeightFormat::Bf16) => None,
        };
        if let Some(kind) = coarse {
            return Form::Reblocked(kind);
        }
        let wanted = match self.weights {
            Some(WeightFormat::F32) => return Form::F32,
            Some(WeightFormat::Bf16) => None,
            Some(WeightFormat::Int8) => Some(GgmlDType::Q8_0),
            Some(WeightFormat::Int4) => Some(GgmlDType::Q4_0),
            // Nothing is gained by bf16 where it is held in f32: the file's values stay exact.
            None => match info.encoding.block_type().filter(|k| multiplies(*k)) {
                None if self.device.is_cpu() => return Form::F32,
                kind => kind,
            },
        };
        match wanted {
            Some(kind) if info.cols.is_multiple_of(kind.block_size()) => Form::Blocks(kind),
            _ => Form::Bf16,
        }
    }

    fn f32(&self, name: &str, info: &TensorInfo) -> Result<Tensor> {
        let values = self.values(name, info, info.cols, |from, out| {
            out.copy_from_slice(from);
            Ok(())
        })?;
        let shape = (info.rows, info.cols);
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }

    fn bf16(&self, name: &str, info: &TensorInfo) -> Result<Tensor> {
        let shape = (info.rows, info.cols);
        if self.device.is_cpu() {
            // Candle multiplies no bf16 matrices on the processor: the same values in f32.
            let values = self.values(name, info, info.cols, |from, out| {
                let rounded = from.iter().map(|v| bf16::from_f32(*v).to_f32());
                out.iter_mut().zip(rounded).for_each(|(o, v)| *o = v);
                Ok(())
            })?;
            return Ok(Tensor::from_vec(values, shape, self.device)?);
        }
        if info.encoding.canonical() == Encoding::Bf16 && !info.merged {
            let bytes = self.raw(name, info)?.data;
            let shape = [info.rows, info.cols];
            let made = Tensor::from_raw_buffer(&bytes, DType::BF16, &shape, self.device)?;
            return Ok(made);
        }
        let values = self.values(name, info, info.cols, |from, out| {
            let rounded = from.iter().map(|v| bf16::from_f32(*v));
            out.iter_mut().zip(rounded).for_each(|(o, v)| *o = v);
            Ok(())
        })?;
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }

    /// Blocks of the file as they are if it has this kind, else made by Candle's quantiser (also
    /// where an adapter changed the values).
    fn blocks(&self, name: &str, info: &TensorInfo, kind: GgmlDType) -> Result<Linear> {
        let bytes = if info.encoding.block_type() == Some(kind) && !info.merged {
            self.raw(name, info)?.data
        } else {
            let per_row = ggml::block_bytes(kind, info.cols);
            self.values(name, info, per_row, |from, out| {
                ggml::quantise(from, kind, out)
            })?
        };
        let made = ggml::blocks(&bytes, kind, (info.rows, info.cols), self.device)?;
        let bytes = bytes.len();
        // Never dense here: only kinds that stay blocks get this far.
        let product = QMatMul::from_qtensor(made)?;
        Ok(Linear::Blocks {
            product,
            bytes,
            correction: None,
        })
    }

    /// The file's integers in blocks, and the correction of what these cannot say.
    fn reblocked(&self, name: &str, info: &TensorInfo, kind: GgmlDType) -> Result<Linear> {
        let Reblocked {
            blocks,
            factors,
            addends,
        } = reblock::reblock(info, &self.raw(name, info)?);
        let bytes = blocks.len() + 4 * (factors.len() + addends.len());
        let made = ggml::blocks(&blocks, kind, (info.rows, info.cols), self.device)?;
        let groups = addends.len() / info.rows.max(1);
        let addends = match groups {
            0 => None,
            _ => {
                let made = Tensor::from_vec(addends, (info.rows, groups), self.device)?;
                Some(made.t()?.contiguous()?)
            }
        };
        Ok(Linear::Blocks {
            product: QMatMul::from_qtensor(made)?,
            bytes,
            correction: Some(Correction {
                factors: Tensor::from_vec(factors, info.rows, self.device)?,
                addends,
            }),
        })
    }

    /// All rows as they lie in the file, checked to be numbers.
    fn raw(&self, name: &str, info: &TensorInfo) -> Result<RawRows> {
        let mut rows = RawRows::default();
        self.tensors.read_raw(name, 0..info.rows, &mut rows)?;
        let wanted = row_bytes(info.encoding, info.cols).map(|b| b * info.rows);
        if wanted != [rows.data.len(), rows.scales.len(), rows.biases.len()] {
            return Err(internal_error(
                "raw rows have another length than their encoding",
            ));
        }
        if finite::floats(&rows, info.encoding) != Floats::Finite {
            // Names the first bad element, if there is one.
            self.values(name, info, 0, |_, _: &mut [u8]| Ok(()))?;
        }
        Ok(rows)
    }

    /// `convert` of all values, `per_row` results a row, on all cores; never the whole matrix in
    /// f32 beside its result. `per_row` 0 only reads.
    fn values<T: Copy + Default + Send>(
        &self,
        name: &str,
        info: &TensorInfo,
        per_row: usize,
        convert: impl Fn(&[f32], &mut [T]) -> Result<()> + Sync,
    ) -> Result<Vec<T>> {
        let TensorInfo { rows, cols, .. } = *info;
        let step = (AT_ONCE / cols.max(1)).max(1);
        let run = |first: usize, out: &mut [T]| {
            let count = step.min(rows - first);
            let mut from = vec![0.0; count * cols];
            self.tensors
                .read_f32(name, first..first + count, &mut from)?;
            convert(&from, out)
        };
        let mut out = vec![T::default(); rows * per_row];
        if per_row == 0 {
            for first in (0..rows).step_by(step) {
                run(first, &mut [])?;
            }
        } else {
            out.par_chunks_mut(step * per_row)
                .enumerate()
                .try_for_each(|(i, out)| run(i * step, out))?;
        }
        Ok(out)
    }
}

/// Block types whose products all of Candle's devices know; others are expanded.
fn multiplies(kind: GgmlDType) -> bool {
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    matches!(
        kind,
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K
    )
}

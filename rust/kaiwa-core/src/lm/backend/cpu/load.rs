//! From named tensors to packed matrices.

use std::ops::{ControlFlow, Range};

use crate::checkpoint::encoding::row_bytes;
use crate::checkpoint::{Encoding, RawRows};
use crate::cpu::{self, Arena, Isa, Packed, Packer, WeightBits, quant_of};
use crate::error::{Error, Result};
use crate::formats::WeightFormat;
use crate::lm::backend::form::Form;
use crate::lm::backend::table::Table;
use crate::lm::quantise::{q4_0_fitted, q8_0};
use crate::lm::schema::{self, Kind};
use crate::lm::{LmTensors, Norm, NormKind, TensorInfo};

/// What every part of the model loads itself with.
pub(super) struct Loader<'a> {
    tensors: &'a dyn LmTensors,
    packer: Packer,
    weights: Option<WeightFormat>,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    done: u64,
    total: u64,
    bytes: usize,
}

/// Values that are rounded at a time.
const FLOATS: usize = 1 << 15;

/// Bytes of all rows in their file.
fn file_bytes(info: &TensorInfo) -> u64 {
    let row: usize = row_bytes(info.encoding, info.cols).iter().sum();
    info.rows as u64 * row as u64
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        isa: Isa,
        tensors: &'a dyn LmTensors,
        weights: Option<WeightFormat>,
        progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        check_memory(tensors, weights)?;
        let mut total = 0;
        for name in tensors.names() {
            let info = tensors.info(&name)?;
            total += file_bytes(&info);
        }
        Ok(Self {
            tensors,
            packer: Packer {
                arena: Arena::default(),
                isa,
                bits: WeightBits::F32,
            },
            weights,
            progress,
            done: 0,
            total,
            bytes: 0,
        })
    }

    /// Bytes of everything loaded.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts what has been read, and asks whether to go on.
    fn advance(&mut self, read: u64) -> Result<()> {
        self.done += read;
        match (self.progress)(self.done.min(self.total), self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    /// A matrix without bias, in the form that the options ask for.
    pub(super) fn linear(&mut self, name: &str) -> Result<Packed> {
        let info = self.tensors.info(name)?;
        let (n, k, tensors) = (info.rows, info.cols, self.tensors);
        let wanted = form_of(self.weights, &info);
        // A few rows at a time, so that the floats stay in a cache.
        let each = (FLOATS / k.max(1)).max(1);
        let fetch = |rows: Range<usize>, raw: &mut RawRows, make: fn(&[f32], &mut Vec<u8>)| {
            raw.data.clear();
            let mut values = vec![0f32; each.min(rows.len()) * k];
            for first in rows.clone().step_by(each) {
                let part = first..(first + each).min(rows.end);
                let values = &mut values[..part.len() * k];
                tensors.read_f32(name, part, values)?;
                make(values, &mut raw.data);
            }
            Ok(())
        };
        let raw_bf16 = info.encoding == Encoding::Bf16 && !info.merged;
        let packed = match wanted {
            Form::Raw => self.packer.stream(n, k, info.encoding, &|rows, raw| {
                tensors.read_raw(name, rows, raw)
            })?,
            Form::Bf16 if raw_bf16 => self.packer.stream(n, k, Encoding::Bf16, &|rows, raw| {
                tensors.read_raw(name, rows, raw)
            })?,
            Form::F32 | Form::Bf16 => {
                self.packer.bits = match wanted {
                    Form::F32 => WeightBits::F32,
                    _ => WeightBits::Bf16,
                };
                self.packer.stream(n, k, Encoding::F32, &|rows, raw| {
                    fetch(rows, raw, |values, out| {
                        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                    })
                })?
            }
            Form::Int8 => self
                .packer
                .stream(n, k, Encoding::Q8_0, &|rows, raw| fetch(rows, raw, q8_0))?,
            Form::Int4 => self.packer.stream(n, k, Encoding::Q4_0, &|rows, raw| {
                fetch(rows, raw, q4_0_fitted)
            })?,
        };
        self.bytes += packed.bytes();
        self.advance(file_bytes(&info))?;
        Ok(packed)
    }

    /// A vector as f32.
    pub(super) fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let info = self.tensors.info(name)?;
        let mut values = vec![0f32; info.rows * info.cols];
        self.tensors.read_f32(name, 0..info.rows, &mut values)?;
        self.bytes += 4 * values.len();
        self.advance(file_bytes(&info))?;
        Ok(values)
    }

    /// An embedding table in the file's own form.
    pub(super) fn table(&mut self, name: &str) -> Result<Table> {
        let info = self.tensors.info(name)?;
        let mut raw = RawRows::default();
        let encoding = if info.merged {
            let values = self.read_all(name, info.rows * info.cols, info.rows)?;
            raw.data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Encoding::F32
        } else {
            self.tensors.read_raw(name, 0..info.rows, &mut raw)?;
            info.encoding
        };
        let table = Table::new(encoding, info.rows, info.cols, raw);
        self.bytes += table.bytes();
        self.advance(file_bytes(&info))?;
        Ok(table)
    }

    fn read_all(&self, name: &str, len: usize, rows: usize) -> Result<Vec<f32>> {
        let mut values = vec![0f32; len];
        self.tensors.read_f32(name, 0..rows, &mut values)?;
        Ok(values)
    }

    /// A norm under `prefix`, e.g. `out_norm`.
    pub(super) fn norm(&mut self, prefix: &str, norm: Norm) -> Result<NormWeights> {
        Ok(match norm.kind {
            NormKind::Rms => NormWeights {
                norm,
                weight: self.vector(&format!("{prefix}.alpha"))?,
                bias: Vec::new(),
            },
            NormKind::Layer => NormWeights {
                norm,
                weight: self.vector(&format!("{prefix}.weight"))?,
                bias: self.vector(&format!("{prefix}.bias"))?,
            },
        })
    }

    /// A layer scale, padded to whole vectors for the matrix kernel.
    pub(super) fn scale(&mut self, name: &str) -> Result<Vec<f32>> {
        let mut scale = self.vector(name)?;
        scale.resize(scale.len().next_multiple_of(64), 0.0);
        Ok(scale)
    }
}

/// What a matrix becomes here.
fn form_of(weights: Option<WeightFormat>, info: &TensorInfo) -> Form {
    let bits = quant_of(info.encoding, info.cols).map(|quant| quant.bits);
    Form::of(weights, info, bits)
}

/// Bytes of a matrix in a form.
fn bytes_of(form: Form, info: &TensorInfo) -> u64 {
    let values = info.rows as u64 * info.cols as u64;
    match form {
        Form::Raw => file_bytes(info),
        Form::F32 => values * 4,
        Form::Bf16 => values * 2,
        Form::Int8 => values / 32 * 34,
        Form::Int4 => values / 32 * 18,
    }
}

/// Bytes that the model takes in memory when held so.
fn memory_of(tensors: &dyn LmTensors, weights: Option<WeightFormat>) -> Result<u64> {
    let mut sum = 0;
    for spec in schema::tensors(tensors.config()) {
        let info = tensors.info(&spec.name)?;
        sum += match spec.kind {
            Kind::Table if info.merged => info.rows as u64 * info.cols as u64 * 4,
            Kind::Table | Kind::Vector => bytes_of(Form::Raw, &info),
            Kind::Matrix => bytes_of(form_of(weights, &info), &info),
        };
    }
    Ok(sum)
}

/// Refuses a model that the machine has no room for, and says which form it has room for.
fn check_memory(tensors: &dyn LmTensors, weights: Option<WeightFormat>) -> Result<()> {
    let Some(available) = cpu::available_memory() else {
        return Ok(());
    };
    let need = memory_of(tensors, weights)?;
    if need <= available {
        return Ok(());
    }
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let mut smaller = Vec::new();
    for (name, form) in [
        ("int8", Some(WeightFormat::Int8)),
        ("int4", Some(WeightFormat::Int4)),
    ] {
        let less = memory_of(tensors, form)?;
        if less < need {
            smaller.push(format!("quantize=\"{name}\" needs {}", gigabytes(less)));
        }
    }
    Err(Error::Memory {
        need: gigabytes(need),
        available: gigabytes(available),
        remedy: match smaller.is_empty() {
            true => "free memory, or use a smaller model".into(),
            false => smaller.join(", "),
        },
    })
}

/// A norm's weights.
pub(super) struct NormWeights {
    norm: Norm,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl NormWeights {
    /// `out` becomes the norm of each row of `x`.
    pub(super) fn run(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        let Norm { kind, eps } = self.norm;
        match kind {
            NormKind::Rms => cpu::rms_norm(isa, x, out, &self.weight, eps),
            NormKind::Layer => cpu::layer_norm(isa, x, out, &self.weight, &self.bias, eps),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lm::Condition;
    use crate::lm::synth::{RandomLm, Size};

    /// A conditioner whose name looks like that of a table.
    #[test]
    fn what_a_tensor_is_does_not_follow_from_parts_of_its_name() {
        let memory = |conditions| {
            let mut config = Size::Tiny.config();
            config.conditions = conditions;
            memory_of(&RandomLm::new(config, 1), Some(WeightFormat::Int8)).unwrap()
        };
        let condition = Condition {
            name: "emb.weight".into(),
            values: vec!["a".into(), "b".into()],
            bins: 2,
            dim: 32,
        };
        let dim = 128;
        // The table and the vector of "absent" as bf16, the projection in blocks of 34 bytes.
        let wanted = 3 * 32 * 2 + dim * 2 + dim * 34;
        assert_eq!(memory(vec![condition]) - memory(vec![]), wanted);
    }
}

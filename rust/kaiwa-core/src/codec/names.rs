//! Mimi's tensors under one set of names, whatever naming the file uses.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::MimiConfig;
use super::expected::expected_tensors;
use super::names_hint::{hint, preview};
use super::spellings::{Stored, candidates, is_training_flag};
use crate::checkpoint::SafeTensorsFile;
use crate::error::{Error, Result};

/// A weight file read by Kyutai's released names (docs/spec/mimi.md 6.1), whatever it is spelt
/// like.
///
/// [`Self::open`] compares the file with the complete set of tensors that the configuration
/// implies, names and shapes, so that a wrong file is refused before anything is read. Tensors
/// are then read one at a time, converted to f32, and ticked off.
pub struct MimiTensors {
    file: SafeTensorsFile,
    /// By released name.
    tensors: HashMap<String, Slot>,
    /// Width of an attention head, for undoing the row order of `transformers`.
    head_dim: usize,
}

/// One expected tensor.
struct Slot {
    stored: Stored,
    shape: Vec<usize>,
    taken: bool,
}

impl MimiTensors {
    /// Opens `path`, works out its naming, and checks that it holds exactly the tensors, with
    /// exactly the shapes, that `config` implies.
    ///
    /// # Errors
    /// Those of [`SafeTensorsFile::open`] and [`MimiConfig::validate`], [`Error::TensorNames`]
    /// and [`Error::TensorShape`].
    pub fn open(path: &Path, config: &MimiConfig) -> Result<Self> {
        Self::from_file(SafeTensorsFile::open(path)?, config)
    }

    /// The same over a file that is already open.
    pub fn from_file(file: SafeTensorsFile, config: &MimiConfig) -> Result<Self> {
        config.validate()?;
        let mut tensors = HashMap::new();
        let mut missing = Vec::new();
        let mut unused: BTreeSet<&str> = file.names().filter(|n| !is_training_flag(n)).collect();
        for expected in expected_tensors(config) {
            let complete = |s: &Stored| s.names().iter().all(|n| file.tensor(n).is_some());
            let Some(stored) = candidates(&expected.name).into_iter().find(complete) else {
                missing.push(expected.name);
                continue;
            };
            for name in stored.names() {
                unused.remove(name);
            }
            tensors.insert(
                expected.name,
                Slot {
                    stored,
                    shape: expected.shape,
                    taken: false,
                },
            );
        }
        if !missing.is_empty() || !unused.is_empty() {
            return Err(Error::TensorNames {
                path: file.path().to_owned(),
                missing: preview(missing.iter().map(String::as_str)),
                unexpected: preview(unused.iter().copied()),
                hint: hint(&file, config),
            });
        }
        let this = Self {
            file,
            tensors,
            head_dim: config.transformer.head_dim(),
        };
        // In the order of the file, so that the same damage always names the same tensor.
        let mut slots: Vec<_> = this.tensors.values().collect();
        slots.sort_by(|a, b| a.stored.names().cmp(&b.stored.names()));
        for slot in slots {
            this.check_shapes(slot)?;
        }
        Ok(this)
    }

    /// Codebooks that the file at `path` holds, without any configuration.
    pub fn count_codebooks(path: &Path) -> Result<usize> {
        Ok(super::names_hint::codebooks(&SafeTensorsFile::open(path)?))
    }

    /// The file, for its path, metadata and summary.
    pub fn file(&self) -> &SafeTensorsFile {
        &self.file
    }

    /// Reads one tensor in f32, row-major. `name` is the released spelling, for instance
    /// `encoder.model.0.conv.conv.weight`,
    /// `encoder_transformer.transformer.layers.0.self_attn.in_proj_weight`,
    /// `quantizer.rvq_rest.vq.layers.3._codebook.embedding_sum`. A tensor may be taken again.
    ///
    /// # Errors
    /// [`Error::TensorNames`] for a name that the configuration does not imply,
    /// [`Error::TensorShape`] if `shape` is not what it implies, and those of
    /// [`SafeTensorsFile::read_f32`].
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(slot) = self.tensors.get_mut(name) else {
            return Err(Error::TensorNames {
                path: self.file.path().to_owned(),
                missing: preview([name].into_iter()),
                unexpected: preview([].into_iter()),
                hint: "pass the config.json that belongs to these weights".into(),
            });
        };
        slot.taken = true;
        if slot.shape != shape {
            return Err(Error::TensorShape {
                path: self.file.path().to_owned(),
                name: name.to_owned(),
                found: slot.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        match &slot.stored {
            Stored::Plain(name) | Stored::Alpha(name) => self.file.read_f32(name),
            Stored::QueryKeyValue([q, k, v]) => {
                let width = shape.last().copied().unwrap_or(0);
                let mut rows = interleave(&self.file.read_f32(q)?, width, self.head_dim);
                rows.extend(interleave(&self.file.read_f32(k)?, width, self.head_dim));
                rows.extend(self.file.read_f32(v)?);
                Ok(rows)
            }
            Stored::WeightNorm { g, v } => {
                let direction = self.file.read_f32(v)?;
                let folded = fold(&self.file.read_f32(g)?, direction);
                match folded.iter().position(|w| !w.is_finite()) {
                    None => Ok(folded),
                    Some(index) => Err(Error::TensorNotFinite {
                        path: self.file.path().to_owned(),
                        name: v.clone(),
                        index,
                        value: folded.get(index).copied().unwrap_or(f32::NAN),
                    }),
                }
            }
        }
    }

    /// To be called after the last [`Self::take`]: an error if the file has tensors nobody took.
    pub fn finish(self) -> Result<()> {
        let left = self.tensors.values().filter(|slot| !slot.taken);
        let names: BTreeSet<&str> = left.flat_map(|slot| slot.stored.names()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::TensorNames {
            path: self.file.path().to_owned(),
            missing: preview([].into_iter()),
            unexpected: preview(names.iter().copied()),
            hint: "this build does not use them: it and the file do not belong together".into(),
        })
    }

    /// Compares the shapes on disk with what the way of storing implies.
    fn check_shapes(&self, slot: &Slot) -> Result<()> {
        let first = slot.shape.first().copied().unwrap_or(0);
        let wanted: Vec<(&str, Vec<usize>)> = match &slot.stored {
            Stored::Plain(name) => vec![(name, slot.shape.clone())],
            Stored::Alpha(name) => vec![(name, vec![1, 1, first])],
            Stored::QueryKeyValue(names) => {
                let width = slot.shape.last().copied().unwrap_or(0);
                names
                    .iter()
                    .map(|n| (n.as_str(), vec![width, width]))
                    .collect()
            }
            Stored::WeightNorm { g, v } => {
                vec![(g, vec![first, 1, 1]), (v, slot.shape.clone())]
            }
        };
        for (name, expected) in wanted {
            let found = self
                .file
                .tensor(name)
                .map(|t| t.shape.clone())
                .unwrap_or_default();
            if found != expected {
                return Err(Error::TensorShape {
                    path: self.file.path().to_owned(),
                    name: name.to_owned(),
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Reorders the rows of a query or key matrix from half rotation (row `i` pairs with row
/// `head_dim / 2 + i`) to the interleaved pairs of the released layout.
fn interleave(matrix: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(matrix.len());
    for head in matrix.chunks(head_dim * width) {
        let (low, high) = head.split_at(head.len() / 2);
        for (a, b) in low.chunks(width).zip(high.chunks(width)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// `g * v / |v|` with one norm per index of the outermost axis. A zero direction gives NaN.
fn fold(magnitudes: &[f32], mut direction: Vec<f32>) -> Vec<f32> {
    let row = direction
        .len()
        .checked_div(magnitudes.len())
        .unwrap_or(1)
        .max(1);
    for (v, g) in direction.chunks_mut(row).zip(magnitudes) {
        let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        for x in v {
            *x = (f64::from(*x) * f64::from(*g) / norm) as f32;
        }
    }
    direction
}

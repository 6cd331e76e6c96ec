//! Adapters of moshi-finetune, merged while tensors are read (docs/spec/checkpoints.md 6):
//! `W + scaling * (B A)`, in f32.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::files::{Backing, Files};
use super::open::NO_ADAPTER;
use super::{LmCheckpoint, Place};
use crate::checkpoint::encoding::{decode_row, row_bytes};
use crate::checkpoint::{Encoding, RawRows};
use crate::error::{Error, Result};
use crate::lm::config_json::Envelope;

/// Scaling of an adapter whose configuration is missing (docs/spec/checkpoints.md 7).
const DEFAULT_SCALING: f64 = 2.0;

/// The changes an adapter makes.
pub(super) struct Adapter {
    pub(super) path: PathBuf,
    scaling: f32,
    rank: usize,
    /// Canonical name to the names of A and B.
    pairs: BTreeMap<String, [(String, Encoding); 2]>,
    /// The A that was read last, under its name: a matrix is merged a few rows at a time, and each
    /// of them needs the whole of it.
    last: Mutex<Option<(String, Tensor)>>,
}

/// A or B: name in the files, shape, type.
type Half = (String, Vec<usize>, Encoding);

/// See [`LmCheckpoint::with_lora`].
pub(super) fn merge(
    mut base: LmCheckpoint,
    file: &Path,
    config_json: Option<&str>,
) -> Result<LmCheckpoint> {
    let wrong = |found: String, remedy: &str| Error::WrongFile {
        path: file.to_owned(),
        found,
        wanted: "a LoRA adapter of this model",
        remedy: remedy.into(),
    };
    let envelope = match config_json {
        Some(text) => Envelope::from_json(text)?,
        None => Envelope::default(),
    };
    let scaling = envelope.lora_scaling.or(base.lora_scaling);
    if scaling.is_none() {
        base.warnings.push(format!(
            "no config.json beside {} says lora_scaling: {DEFAULT_SCALING} is taken, which \
             moshi-finetune trains with unless told otherwise",
            file.display()
        ));
    }
    let at = base.files.add_prefixed(Backing::open(file)?)?;
    let names: Vec<String> = base.files.names_of(at);
    let plain = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    if !names.iter().any(|n| n.contains(".lora_")) {
        let found = "a file without lora_A and lora_B tensors".into();
        return Err(wrong(found, "pass the adapter's lora.safetensors"));
    }
    let mut halves: BTreeMap<String, [Option<Half>; 2]> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in &names {
        let bare = plain(name);
        let (shape, encoding) = {
            let shape = base.files.entries[name].shape.clone();
            match base.files.encoding(name) {
                Some(e @ (Encoding::F32 | Encoding::F16 | Encoding::Bf16)) => (shape, e),
                _ => {
                    return Err(Error::TensorDtype {
                        path: file.to_owned(),
                        name: bare,
                        dtype: base.files.entries[name].dtype.clone(),
                        remedy: "adapters hold F32, F16 or BF16",
                    });
                }
            }
        };
        let half = [".lora_A.weight", ".lora_B.weight"]
            .iter()
            .position(|tail| bare.ends_with(tail));
        match half {
            Some(half) => {
                let module = bare[..bare.len() - ".lora_A.weight".len()].to_owned();
                let target = format!("{}.weight", per_set(&module));
                match base.places.contains_key(&target) {
                    true => {
                        let slot = halves.entry(target).or_default();
                        slot[half] = Some((name.clone(), shape, encoding));
                    }
                    false => unknown.push(bare),
                }
            }
            None => match base.places.get(&bare) {
                Some(old) if bare.contains("emb") => {
                    if shape[..] != [old.rows, old.cols] {
                        return Err(Error::TensorShape {
                            path: file.to_owned(),
                            name: bare,
                            found: shape,
                            expected: vec![old.rows, old.cols],
                        });
                    }
                    let place = Place {
                        name: name.clone(),
                        first: 0,
                        encoding,
                        scales: None,
                        biases: None,
                        ..old.clone()
                    };
                    base.places.insert(bare, place);
                }
                _ => unknown.push(bare),
            },
        }
    }
    if !unknown.is_empty() {
        let found = format!("an adapter for {}", super::hint::listed(&unknown));
        return Err(wrong(
            found,
            "this model has no such parts: pass the adapter of this model, or its base model",
        ));
    }
    let mut rank = None;
    let mut pairs = BTreeMap::new();
    for (target, halves) in halves {
        let place = &base.places[&target];
        let [Some(a), Some(b)] = halves else {
            let found = format!("an adapter with only one of lora_A and lora_B for {target}");
            return Err(wrong(found, "download it again"));
        };
        let ([_, inputs], [outputs, _]) = (&a.1[..], &b.1[..]) else {
            let found = format!("an adapter whose {target} has shapes {:?}, {:?}", a.1, b.1);
            return Err(wrong(found, "download it again"));
        };
        if a.1[0] != b.1[1] || *rank.get_or_insert(a.1[0]) != a.1[0] || a.1[0] == 0 {
            let found = format!(
                "an adapter of several ranks ({target} has lora_A {:?} and lora_B {:?})",
                a.1, b.1
            );
            return Err(wrong(found, "all parts need one rank: download it again"));
        }
        if (*outputs, *inputs) != (place.rows, place.cols) {
            let found = format!(
                "an adapter whose part for {target} is [{outputs}, {inputs}], where the model has \
                 [{}, {}]",
                place.rows, place.cols
            );
            return Err(wrong(
                found,
                "pass the adapter of this model, or its base model",
            ));
        }
        pairs.insert(target, [(a.0, a.2), (b.0, b.2)]);
    }
    let rank = rank.unwrap_or(0);
    if let Some(said) = envelope.lora_rank.filter(|said| *said != rank) {
        return Err(Error::Config {
            field: "lora_rank".into(),
            got: said.to_string(),
            wanted: format!("the adapter has rank {rank}: pass the config.json that belongs to it"),
        });
    }
    base.warnings.retain(|text| text != NO_ADAPTER);
    base.adapter = Some(Adapter {
        scaling: scaling.unwrap_or(DEFAULT_SCALING) as f32,
        path: file.to_owned(),
        rank,
        pairs,
        last: Mutex::default(),
    });
    Ok(base)
}

/// What the names of an adapter's file begin with among those of the model.
const PREFIX: &str = "adapter:";

impl Files {
    /// Adds a file whose names may be those of the model: they get a prefix.
    fn add_prefixed(&mut self, backing: Backing) -> Result<usize> {
        let mut own = Files::empty();
        own.add(backing)?;
        Ok(self.take_over(own, PREFIX))
    }
}

/// The per-set spelling of a module that older adapters name without a set.
fn per_set(module: &str) -> String {
    for (old, new) in [(".in_proj", ".in_projs.0"), (".out_proj", ".out_projs.0")] {
        if let Some(prefix) = module.strip_suffix(old) {
            return format!("{prefix}{new}");
        }
    }
    module.to_owned()
}

impl Adapter {
    /// Does it change this tensor?
    pub(super) fn changes(&self, name: &str) -> bool {
        self.pairs.contains_key(name)
    }

    /// Adds its part of some rows to `out`, `[rows, cols]`.
    pub(super) fn add(
        &self,
        files: &Files,
        name: &str,
        rows: Range<usize>,
        cols: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let Some([(a, a_encoding), (b, b_encoding)]) = self.pairs.get(name) else {
            return Ok(());
        };
        let a = self.first(files, a, *a_encoding, cols)?;
        let b = half(files, b, *b_encoding, rows, self.rank)?;
        let change: Vec<f32> = b.matmul(&a)?.flatten_all()?.to_vec1()?;
        for (out, change) in out.iter_mut().zip(change) {
            *out += self.scaling * change;
        }
        Ok(())
    }

    /// A `[rank, cols]`.
    fn first(&self, files: &Files, name: &str, encoding: Encoding, cols: usize) -> Result<Tensor> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((held, a)) if held == name => Ok(a.clone()),
            _ => {
                let a = half(files, name, encoding, 0..self.rank, cols)?;
                *last = Some((name.to_owned(), a.clone()));
                Ok(a)
            }
        }
    }
}

/// Some rows of A or B.
fn half(
    files: &Files,
    name: &str,
    encoding: Encoding,
    rows: Range<usize>,
    cols: usize,
) -> Result<Tensor> {
    let [each, ..] = row_bytes(encoding, cols);
    let (count, mut raw) = (rows.len(), RawRows::default());
    files.read(
        name,
        (rows.start * each) as u64,
        count * each,
        &mut raw.data,
    )?;
    let mut values = vec![0f32; count * cols];
    decode_row(encoding, count * cols, &raw, 1, 0, &mut values);
    Ok(Tensor::from_vec(values, (count, cols), &Device::Cpu)?)
}

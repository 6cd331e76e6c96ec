//! Conditions: a named value picked per conversation whose vector is added to every input (spec
//! moshi-lm.md 9.2).

use super::LmTensors;
use crate::error::{Error, Result};

/// The vectors of every conditioner, computed at load.
pub(crate) struct Conditions {
    dim: usize,
    all: Vec<One>,
}

struct One {
    name: String,
    values: Vec<String>,
    /// `[values + 1, dim]`; the last row stands for "absent".
    vectors: Vec<f32>,
}

impl Conditions {
    /// Reads tables and projections.
    pub(crate) fn load(tensors: &dyn LmTensors) -> Result<Self> {
        let dim = tensors.config().dim;
        let read = |name: &str| -> Result<Vec<f32>> {
            let info = tensors.info(name)?;
            let mut values = vec![0f32; info.rows * info.cols];
            tensors.read_f32(name, 0..info.rows, &mut values)?;
            Ok(values)
        };
        let mut all = Vec::new();
        for condition in &tensors.config().conditions {
            let prefix = format!("condition.{}", condition.name);
            let table = read(&format!("{prefix}.embed.weight"))?;
            let projection = read(&format!("{prefix}.output_proj.weight"))?;
            let absent = read(&format!("{prefix}.learnt_padding"))?;
            let mut vectors = Vec::with_capacity((condition.values.len() + 1) * dim);
            for row in table
                .chunks_exact(condition.dim)
                .take(condition.values.len())
            {
                vectors.extend(
                    projection
                        .chunks_exact(condition.dim)
                        .map(|weights| weights.iter().zip(row).map(|(w, x)| w * x).sum::<f32>()),
                );
            }
            vectors.extend(absent);
            all.push(One {
                name: condition.name.clone(),
                values: condition.values.clone(),
                vectors,
            });
        }
        Ok(Self { dim, all })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The choice a conversation starts with: `very_good` where there is such a value, otherwise
    /// none.
    pub(crate) fn initial(&self) -> Vec<usize> {
        self.all
            .iter()
            .map(|one| {
                let good = one.values.iter().position(|v| v == "very_good");
                good.unwrap_or(one.values.len())
            })
            .collect()
    }

    /// Index of a conditioner, and of one of its values (`None`: absent).
    pub(crate) fn find(&self, name: &str, value: Option<&str>) -> Result<(usize, usize)> {
        let at = self.all.iter().position(|one| one.name == name);
        let Some((at, one)) = at.and_then(|at| Some((at, self.all.get(at)?))) else {
            let names: Vec<_> = self.all.iter().map(|one| one.name.as_str()).collect();
            return Err(Error::OptionValue {
                name: "conditions",
                got: format!("{name:?}"),
                allowed: match names.is_empty() {
                    true => "none: this model has no conditions".into(),
                    false => format!("a name of this model: {}", names.join(", ")),
                },
            });
        };
        let Some(value) = value else {
            return Ok((at, one.values.len()));
        };
        match one.values.iter().position(|v| v == value) {
            Some(index) => Ok((at, index)),
            None => Err(Error::OptionValue {
                name: "conditions",
                got: format!("{name}={value:?}"),
                allowed: one.values.join(", "),
            }),
        }
    }

    /// Adds up the vectors of one choice per conditioner, `[dim]`, into `out`.
    pub(crate) fn sum(&self, chosen: &[usize], out: &mut [f32]) {
        out.fill(0.0);
        for (one, row) in self.all.iter().zip(chosen) {
            let vector = &one.vectors[row * self.dim..][..self.dim];
            out.iter_mut().zip(vector).for_each(|(o, v)| *o += v);
        }
    }
}

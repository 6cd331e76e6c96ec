//! A look-up conditioner: one of a few named values, each with a vector of its own.

use crate::error::{Error, Result};
use crate::lm::{Condition, LmTensors};

/// A conditioner's values, with their vectors as they are added to the model's input.
pub(super) struct LookUp {
    pub(super) name: String,
    values: Vec<String>,
    dim: usize,
    /// `[values + 1, dim]`; the last row stands for "absent".
    vectors: Vec<f32>,
}

impl LookUp {
    /// Reads the table and projects every value once.
    pub(super) fn load(tensors: &dyn LmTensors, condition: &Condition) -> Result<Self> {
        let dim = tensors.config().dim;
        let read = |part: &str| -> Result<Vec<f32>> {
            let name = format!("condition.{}.{part}", condition.name);
            let info = tensors.info(&name)?;
            let mut values = vec![0f32; info.rows * info.cols];
            tensors.read_f32(&name, 0..info.rows, &mut values)?;
            Ok(values)
        };
        let table = read("embed.weight")?;
        let projection = read("output_proj.weight")?;
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
        vectors.extend(read("learnt_padding")?);
        Ok(Self {
            name: condition.name.clone(),
            values: condition.values.clone(),
            dim,
            vectors,
        })
    }

    /// The value that a conversation starts with: `very_good` where there is such a value,
    /// otherwise "absent" (docs/spec/moshi.md 9.2).
    pub(super) fn initial(&self) -> usize {
        let good = self.values.iter().position(|v| v == "very_good");
        good.unwrap_or(self.values.len())
    }

    /// Index of a value; `None` is "absent".
    pub(super) fn find(&self, value: Option<&str>) -> Result<usize> {
        let Some(value) = value else {
            return Ok(self.values.len());
        };
        let found = self.values.iter().position(|v| v == value);
        found.ok_or_else(|| Error::OptionValue {
            name: "conditions",
            got: format!("{}={value:?}", self.name),
            allowed: self.values.join(", "),
        })
    }

    /// The vector of a value's index, `[dim]`.
    pub(super) fn vector(&self, value: usize) -> &[f32] {
        &self.vectors[value * self.dim..][..self.dim]
    }
}

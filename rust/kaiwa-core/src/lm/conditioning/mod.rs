//! Conditions: named values picked per conversation whose vectors are added to every input
//! (docs/spec/moshi.md 9.2). A kind of conditioner is a file here.

mod lookup;

use lookup::LookUp;

use super::LmTensors;
use crate::error::{Error, Result};

/// The conditioners of a model, their vectors computed at load.
pub(crate) struct Conditions {
    conditioners: Vec<LookUp>,
}

impl Conditions {
    /// Reads tables and projections.
    pub(crate) fn load(tensors: &dyn LmTensors) -> Result<Self> {
        let conditions = tensors.config().conditions.iter();
        let conditioners = conditions.map(|condition| LookUp::load(tensors, condition));
        Ok(Self {
            conditioners: conditioners.collect::<Result<_>>()?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.conditioners.is_empty()
    }

    /// The value of each conditioner that a conversation starts with.
    pub(crate) fn initial(&self) -> Vec<usize> {
        self.conditioners.iter().map(LookUp::initial).collect()
    }

    /// Index of a conditioner, and of one of its values (`None`: absent).
    pub(crate) fn find(&self, name: &str, value: Option<&str>) -> Result<(usize, usize)> {
        let mut all = self.conditioners.iter().enumerate();
        let Some((at, conditioner)) = all.find(|(_, one)| one.name == name) else {
            let names: Vec<_> = self.conditioners.iter().map(|c| c.name.as_str()).collect();
            return Err(Error::OptionValue {
                name: "conditions",
                got: format!("{name:?}"),
                allowed: match names.is_empty() {
                    true => "none: this model has no conditions".into(),
                    false => format!("a name of this model: {}", names.join(", ")),
                },
            });
        };
        Ok((at, conditioner.find(value)?))
    }

    /// Adds up the vectors of one value per conditioner, `[dim]`, into `out`.
    pub(crate) fn sum(&self, chosen: &[usize], out: &mut [f32]) {
        out.fill(0.0);
        for (conditioner, value) in self.conditioners.iter().zip(chosen) {
            let vector = conditioner.vector(*value);
            out.iter_mut().zip(vector).for_each(|(o, v)| *o += v);
        }
    }
}

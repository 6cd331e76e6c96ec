//! How the codec's weights are held.

use crate::error::{Error, Result};

/// How the network's weights are held. The quantiser is f32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Exact.
    F32,
    /// Half the memory traffic; arithmetic stays f32.
    Bf16,
}

impl WeightType {
    /// Parses `float32` or `bfloat16`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "float32" => Ok(Self::F32),
            "bfloat16" => Ok(Self::Bf16),
            _ => Err(Error::OptionValue {
                name: "dtype",
                got: format!("{text:?}"),
                allowed: "\"float32\" or \"bfloat16\"".into(),
            }),
        }
    }

    /// The name [`Self::parse`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

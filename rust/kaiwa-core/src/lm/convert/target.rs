//! The formats that a model can be written in.

use crate::checkpoint::Encoding;
use crate::checkpoint::encoding::row_bytes;
use crate::error::{Error, Result};
use crate::lm::Layout;
use crate::lm::schema::{Kind, Spec};

/// A published format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Layout A in bf16.
    PyTorchBf16,
    /// Layout A in f32.
    PyTorchF32,
    /// Layout B: 8-bit rows.
    PyTorchInt8,
    /// Layout C in bf16.
    CandleBf16,
    /// Layout D: everything with whole blocks in Q8_0, the rest f32.
    GgufQ8,
    /// Layout D's names: matrices in Q4_0, tables in Q8_0, the rest f32.
    GgufQ4,
    /// Layout E in bf16.
    MlxBf16,
    /// Layout E, 8 bits, groups of 64.
    MlxQ8,
    /// Layout E, 4 bits, groups of 32.
    MlxQ4,
}

/// How one tensor is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    F32,
    Bf16,
    Q8_0,
    Q4_0,
    Int8Rows,
    Affine { bits: u8, group: usize },
}

impl Form {
    /// The same, as files that are read have it.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::F32 => Encoding::F32,
            Self::Bf16 => Encoding::Bf16,
            Self::Q8_0 => Encoding::Q8_0,
            Self::Q4_0 => Encoding::Q4_0,
            Self::Int8Rows => Encoding::Int8Rows,
            Self::Affine { bits, group } => Encoding::Affine { bits, group },
        }
    }

    /// Bytes of a row: numbers, scales, biases.
    pub(super) fn row_bytes(self, cols: usize) -> [usize; 3] {
        row_bytes(self.encoding(), cols)
    }
}

const NAMES: [(&str, Target); 11] = [
    ("pytorch-bf16", Target::PyTorchBf16),
    ("safetensors-bf16", Target::PyTorchBf16),
    ("safetensors-f32", Target::PyTorchF32),
    ("pytorch-int8", Target::PyTorchInt8),
    ("candle-bf16", Target::CandleBf16),
    ("gguf-q8", Target::GgufQ8),
    ("candle-q8", Target::GgufQ8),
    ("gguf-q4", Target::GgufQ4),
    ("mlx-bf16", Target::MlxBf16),
    ("mlx-q8", Target::MlxQ8),
    ("mlx-q4", Target::MlxQ4),
];

impl Target {
    /// Names of all formats, synonyms included.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    /// Parses one of [`Self::names`].
    ///
    /// # Errors
    /// [`Error::OptionValue`] with the names there are.
    pub fn parse(text: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, target)| *target)
            .ok_or_else(|| Error::OptionValue {
                name: "format",
                got: format!("{text:?}"),
                allowed: Self::names().join(", "),
            })
    }

    /// The first of its names.
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(_, target)| *target == self);
        found.map_or("", |(name, _)| name)
    }

    /// The name that the released repositories give such a file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::PyTorchBf16 | Self::PyTorchF32 | Self::CandleBf16 | Self::MlxBf16 => {
                "model.safetensors"
            }
            Self::PyTorchInt8 | Self::MlxQ8 => "model.q8.safetensors",
            Self::GgufQ8 => "model.q8.gguf",
            Self::GgufQ4 => "model.q4.gguf",
            Self::MlxQ4 => "model.q4.safetensors",
        }
    }

    pub(super) fn gguf(self) -> bool {
        matches!(self, Self::GgufQ8 | Self::GgufQ4)
    }

    pub(super) fn mlx(self) -> bool {
        matches!(self, Self::MlxBf16 | Self::MlxQ8 | Self::MlxQ4)
    }

    /// The layout whose names it has.
    pub(super) fn layout(self) -> Layout {
        match self {
            Self::PyTorchBf16 | Self::PyTorchF32 | Self::PyTorchInt8 => Layout::PyTorch,
            Self::CandleBf16 => Layout::Candle,
            Self::GgufQ8 | Self::GgufQ4 => Layout::Gguf,
            _ => Layout::Mlx,
        }
    }

    /// How a tensor is written; `low_rank` is true for tables that a projection follows.
    pub(super) fn form(self, spec: &Spec, low_rank: bool) -> Result<Form> {
        if spec.name.starts_with("condition.") {
            return Ok(Form::F32);
        }
        let blocks = spec.cols.is_multiple_of(32);
        let affine = |bits: u8, group: usize| match spec.cols.is_multiple_of(group) {
            true => Ok(Form::Affine { bits, group }),
            false => Err(Error::OptionValue {
                name: "format",
                got: format!("{:?} for {} of width {}", self.name(), spec.name, spec.cols),
                allowed: format!("a format without groups of {group}, such as mlx-bf16 or gguf-q8"),
            }),
        };
        match (self, spec.kind) {
            (Self::PyTorchF32, _) => Ok(Form::F32),
            (Self::PyTorchInt8, Kind::Matrix) => Ok(Form::Int8Rows),
            (Self::GgufQ8, Kind::Matrix | Kind::Table) if blocks => Ok(Form::Q8_0),
            (Self::GgufQ4, Kind::Matrix) if blocks => Ok(Form::Q4_0),
            (Self::GgufQ4, Kind::Table) if blocks => Ok(Form::Q8_0),
            (Self::GgufQ8 | Self::GgufQ4, _) => Ok(Form::F32),
            (Self::MlxQ8, Kind::Matrix) => affine(8, 64),
            (Self::MlxQ4, Kind::Matrix) => affine(4, 32),
            (Self::MlxQ8, Kind::Table) if !low_rank => affine(8, 64),
            (Self::MlxQ4, Kind::Table) if !low_rank => affine(4, 32),
            _ => Ok(Form::Bf16),
        }
    }
}

//! The forms of packed weights: one for each struct of `cuda/product_weights.h`.

use crate::checkpoint::Encoding;

/// How a packed matrix holds its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32; multiplied with 16 binary digits.
    F32,
    Bf16,
    /// 8-bit rows with an f32 scale each.
    Int8Rows,
    Q8_0,
    Q4_0,
    Q4_1,
    /// MLX's groups, of 32 or 64 inputs; those of 128 are groups of 64 in pairs.
    Affine {
        bits: u8,
        group: usize,
    },
}

impl Form {
    /// Every form.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 10] = [
        Self::F32,
        Self::Bf16,
        Self::Int8Rows,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Affine { bits: 8, group: 32 },
        Self::Affine { bits: 8, group: 64 },
        Self::Affine { bits: 4, group: 32 },
        Self::Affine { bits: 4, group: 64 },
    ];

    /// The form that keeps rows of `cols` numbers as they are in their file; none if there is none,
    /// and the matrix has to be packed from its numbers.
    pub(crate) fn of(encoding: Encoding, cols: usize) -> Option<Self> {
        let blocks = cols.is_multiple_of(32);
        match encoding {
            Encoding::F32 => Some(Self::F32),
            Encoding::Bf16 => Some(Self::Bf16),
            Encoding::Int8Rows => Some(Self::Int8Rows),
            Encoding::Q8_0 if blocks => Some(Self::Q8_0),
            Encoding::Q4_0 if blocks => Some(Self::Q4_0),
            Encoding::Q4_1 if blocks => Some(Self::Q4_1),
            Encoding::Affine {
                bits: bits @ (4 | 8),
                group: group @ (32 | 64 | 128),
            } if cols.is_multiple_of(group) => Some(Self::Affine {
                bits,
                group: group.min(64),
            }),
            _ => None,
        }
    }

    /// Inputs of a unit.
    pub(super) fn unit(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 32,
            _ => 64,
        }
    }

    /// Vectors of 16 bytes that a lane reads of a unit.
    pub(super) fn chunks(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            _ if self.bits() == 8 => 2,
            _ => 1,
        }
    }

    /// Bits of an integer; 0 for floats.
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::F32 | Self::Bf16 => 0,
            Self::Int8Rows | Self::Q8_0 => 8,
            Self::Q4_0 | Self::Q4_1 => 4,
            Self::Affine { bits, .. } => bits,
        }
    }

    /// Scales of a unit for one output.
    pub(super) fn groups(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::Int8Rows => 0,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 2,
            Self::Affine { group, .. } => 64 / group,
        }
    }

    /// Whether there is an addend beside each scale.
    pub(super) fn addends(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Affine { .. })
    }

    /// Bytes of scales and addends of a unit for outputs `g` and `g + 8`.
    pub(super) fn scale_bytes(self) -> usize {
        4 * self.groups() * (1 + usize::from(self.addends()))
    }

    /// Bytes of a unit of a tile.
    pub(super) fn unit_bytes(self) -> usize {
        512 * self.chunks() + 8 * self.scale_bytes()
    }

    /// Bytes of the same in the kernel's ring, where each lane has scales of its own.
    pub(super) fn copy_bytes(self) -> usize {
        512 * self.chunks() + 32 * self.scale_bytes()
    }

    /// The kernel for strips of `tiles` tiles and `columns` times eight rows.
    pub(super) fn kernel(self, tiles: usize, columns: usize) -> &'static str {
        macro_rules! kernels {
            ($name:literal) => {
                match (tiles, columns) {
                    (2, 1) => concat!("kaiwa_product_", $name, "_2x1"),
                    (2, _) => concat!("kaiwa_product_", $name, "_2x4"),
                    (_, 1) => concat!("kaiwa_product_", $name, "_4x1"),
                    _ => concat!("kaiwa_product_", $name, "_4x4"),
                }
            };
        }
        match self {
            Self::F32 => kernels!("f32"),
            Self::Bf16 => kernels!("bf16"),
            Self::Int8Rows => kernels!("int8_rows"),
            Self::Q8_0 => kernels!("q8_0"),
            Self::Q4_0 => kernels!("q4_0"),
            Self::Q4_1 => kernels!("q4_1"),
            Self::Affine { bits: 8, group: 32 } => kernels!("affine8_32"),
            Self::Affine { bits: 8, .. } => kernels!("affine8_64"),
            Self::Affine { group: 32, .. } => kernels!("affine4_32"),
            Self::Affine { .. } => kernels!("affine4_64"),
        }
    }
}

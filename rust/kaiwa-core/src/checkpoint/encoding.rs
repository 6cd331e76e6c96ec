//! How numbers lie in files, for every encoding: the size of a row in bytes, and what it stands
//! for.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::ggml;

/// How a matrix's numbers lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Plain little-endian floats.
    F32,
    /// Plain halves.
    F16,
    /// Plain bfloat16.
    Bf16,
    /// GGUF blocks of 32: f16 scale `d`, 32 int8; `w = d q`. 34 bytes.
    Q8_0,
    /// GGUF blocks of 32: f16 scale `d`, 16 bytes (low nibbles first half); `w = d (q - 8)`.
    Q4_0,
    /// GGUF blocks of 32: f16 scale `d`, f16 minimum `m`, 16 bytes; `w = d q + m`.
    Q4_1,
    /// Another GGUF block type; raw rows are its blocks.
    Ggml(GgmlDType),
    /// int8 with one f32 scale a row: `w = q * scale / 127` (docs/spec/checkpoints.md 2).
    Int8Rows,
    /// MLX: unsigned `bits`-bit integers in little-endian words, with a bf16 scale and bias per
    /// `group` inputs: `w = scale q + bias` (docs/spec/checkpoints.md 5).
    Affine {
        /// 4 or 8.
        bits: u8,
        /// Inputs per scale.
        group: usize,
    },
}

impl Encoding {
    /// The block type where GGML defines it, and it is not plain floats.
    pub(crate) fn block_type(self) -> Option<GgmlDType> {
        match self.canonical() {
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q4_0 => Some(GgmlDType::Q4_0),
            Self::Q4_1 => Some(GgmlDType::Q4_1),
            Self::Ggml(kind) => Some(kind),
            _ => None,
        }
    }

    /// `GgmlDType` spells three plain types of its own: one word for each.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Ggml(GgmlDType::F32) => Self::F32,
            Self::Ggml(GgmlDType::F16) => Self::F16,
            Self::Ggml(GgmlDType::BF16) => Self::Bf16,
            other => other,
        }
    }
}

/// Rows of a matrix as they lie in their file, reused between reads.
#[derive(Debug, Default, Clone)]
pub struct RawRows {
    /// The numbers or blocks, `rows` times the bytes of a row.
    pub data: Vec<u8>,
    /// `Int8Rows`: f32 per row. `Affine`: bf16 per group. Otherwise empty.
    pub scales: Vec<u8>,
    /// `Affine`: bf16 per group. Otherwise empty.
    pub biases: Vec<u8>,
}

impl RawRows {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + self.scales.len() + self.biases.len()
    }
}

/// Bytes of a row of `cols` values: its data, its scales, its biases.
pub(crate) fn row_bytes(encoding: Encoding, cols: usize) -> [usize; 3] {
    let data = match encoding {
        Encoding::F32 => cols * 4,
        Encoding::F16 | Encoding::Bf16 => cols * 2,
        Encoding::Q8_0 => cols / 32 * 34,
        Encoding::Q4_0 => cols / 32 * 18,
        Encoding::Q4_1 => cols / 32 * 20,
        Encoding::Ggml(kind) => ggml::block_bytes(kind, cols),
        Encoding::Int8Rows => return [cols, 4, 0],
        Encoding::Affine { bits, group } => {
            let groups = cols.div_ceil(group.max(1)) * 2;
            return [cols * usize::from(bits) / 8, groups, groups];
        }
    };
    [data, 0, 0]
}

/// Dequantises row `row` of `raw`, which holds `rows` rows of `cols` values, into `out`.
///
/// Block types without a formula of their own here come out as NaN if `cols` does not fill
/// blocks; readers check that before.
pub(crate) fn decode_row(
    encoding: Encoding,
    cols: usize,
    raw: &RawRows,
    rows: usize,
    row: usize,
    out: &mut [f32],
) {
    let parts = [&raw.data, &raw.scales, &raw.biases].map(|bytes| {
        let each = bytes.len() / rows.max(1);
        &bytes[row * each..(row + 1) * each]
    });
    decode(encoding, parts, &mut out[..cols]);
}

/// Dequantises one row, given as its data, scales and biases.
fn decode(encoding: Encoding, [data, scales, biases]: [&[u8]; 3], out: &mut [f32]) {
    let half = |b: [u8; 2]| f16::from_le_bytes(b).to_f32();
    let brain = |b: [u8; 2]| bf16::from_le_bytes(b).to_f32();
    match encoding {
        Encoding::F32 => {
            for (o, b) in out.iter_mut().zip(data.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Encoding::F16 => {
            for (o, b) in out.iter_mut().zip(data.as_chunks::<2>().0) {
                *o = half(*b);
            }
        }
        Encoding::Bf16 => {
            for (o, b) in out.iter_mut().zip(data.as_chunks::<2>().0) {
                *o = brain(*b);
            }
        }
        Encoding::Q8_0 => {
            for (o, b) in out.chunks_exact_mut(32).zip(data.as_chunks::<34>().0) {
                let d = half([b[0], b[1]]);
                for (o, q) in o.iter_mut().zip(&b[2..]) {
                    *o = d * f32::from(*q as i8);
                }
            }
        }
        Encoding::Q4_0 => {
            for (o, b) in out.chunks_exact_mut(32).zip(data.as_chunks::<18>().0) {
                let d = half([b[0], b[1]]);
                let (low, high) = o.split_at_mut(16);
                for ((l, h), q) in low.iter_mut().zip(high).zip(&b[2..]) {
                    *l = d * (f32::from(q & 15) - 8.0);
                    *h = d * (f32::from(q >> 4) - 8.0);
                }
            }
        }
        Encoding::Q4_1 => {
            for (o, b) in out.chunks_exact_mut(32).zip(data.as_chunks::<20>().0) {
                let (d, m) = (half([b[0], b[1]]), half([b[2], b[3]]));
                let (low, high) = o.split_at_mut(16);
                for ((l, h), q) in low.iter_mut().zip(high).zip(&b[4..]) {
                    *l = d * f32::from(q & 15) + m;
                    *h = d * f32::from(q >> 4) + m;
                }
            }
        }
        Encoding::Ggml(kind) => ggml::dequantise(kind, data, out),
        Encoding::Int8Rows => {
            let scale = scales
                .first_chunk::<4>()
                .map_or(0.0, |b| f32::from_le_bytes(*b));
            for (o, q) in out.iter_mut().zip(data) {
                *o = f32::from(*q as i8) * scale / 127.0;
            }
        }
        Encoding::Affine { bits, group } => {
            let scales = scales.as_chunks::<2>().0;
            let biases = biases.as_chunks::<2>().0;
            for (i, o) in out.iter_mut().enumerate() {
                let q = match bits {
                    8 => data[i],
                    _ => data[i / 2] >> (4 * (i % 2)) & 15,
                };
                *o = brain(scales[i / group]) * f32::from(q) + brain(biases[i / group]);
            }
        }
    }
}

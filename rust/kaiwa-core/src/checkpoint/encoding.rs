//! How numbers lie in files, for every encoding: the size of a row in bytes, and what it stands
//! for.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

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
        Encoding::Ggml(kind) => cols / kind.block_size() * kind.type_size(),
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
        Encoding::Ggml(kind) => decode_ggml(kind, data, out),
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

/// The block types of GGUF that have no kernels here, through the tensor library.
fn decode_ggml(kind: GgmlDType, data: &[u8], out: &mut [f32]) {
    use candle_core::quantized::{QStorage, QTensor};
    use candle_core::{Device, Tensor};
    // The library reads blocks in place and wants them aligned, which rows of bytes need not be.
    const ALIGN: usize = 8;
    let mut copy = vec![0u8; data.len() + ALIGN];
    let skip = copy.as_ptr().align_offset(ALIGN).min(ALIGN);
    copy[skip..skip + data.len()].copy_from_slice(data);
    let data = &copy[skip..skip + data.len()];
    let values = || -> candle_core::Result<Vec<f32>> {
        let storage = QStorage::from_data(std::borrow::Cow::Borrowed(data), &Device::Cpu, kind)?;
        let tensor = QTensor::new(storage, out.len())?;
        let tensor: Tensor = tensor.dequantize(&Device::Cpu)?;
        tensor.to_vec1()
    };
    match values() {
        Ok(values) => out.copy_from_slice(&values),
        Err(_) => out.fill(f32::NAN),
    }
}

//! Integers of files in GGML's blocks, which the devices multiply, with what those blocks cannot
//! say kept in a correction:
//!
//! | in the file | blocks | correction |
//! |---|---|---|
//! | 8-bit rows: `scale q / 127` (docs/spec/checkpoints.md 2) | Q8_0 of `q`, scale 1 | `scale / 127` per row |
//! | MLX 8 bits: `s q + b` (section 5) | Q8_0 of `s (q - 128)` | `b + 128 s` per group, a power of two per row |
//! | MLX 4 bits: `s q + b` | Q4_1 | a power of two per row |
//!
//! Blocks keep their scales as f16. Those of MLX are bf16, whose eight digits f16 holds, but not
//! its range: so each row is scaled by a power of two until its largest scale or addend is below
//! one. A scale smaller than 2^-17 of that loses digits, each at most 2^-25 of the largest.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use crate::checkpoint::{Encoding, RawRows};
use crate::lm::TensorInfo;

/// Values of a block.
const BLOCK: usize = 32;

/// A matrix in blocks.
pub(super) struct Reblocked {
    pub blocks: Vec<u8>,
    /// Factor of every output, `[rows]`.
    pub factors: Vec<f32>,
    /// What is added to the weights of a group of inputs, after the factor: `[rows, groups]`;
    /// empty if there is none.
    pub addends: Vec<f32>,
}

/// The block type that holds such a matrix, if one does.
pub(super) fn kind(info: &TensorInfo) -> Option<GgmlDType> {
    if info.merged || !info.cols.is_multiple_of(BLOCK) {
        return None;
    }
    match info.encoding {
        Encoding::Int8Rows => Some(GgmlDType::Q8_0),
        Encoding::Affine { bits, group } if group.is_multiple_of(BLOCK) => match bits {
            4 => Some(GgmlDType::Q4_1),
            8 => Some(GgmlDType::Q8_0),
            _ => None,
        },
        _ => None,
    }
}

/// Rows as they lie in the file, of a matrix that has a [`kind`].
pub(super) fn reblock(info: &TensorInfo, raw: &RawRows) -> Reblocked {
    match info.encoding {
        Encoding::Affine { bits, group } => affine(info, raw, bits, group),
        _ => rows(info, raw),
    }
}

fn rows(info: &TensorInfo, raw: &RawRows) -> Reblocked {
    let mut blocks = Vec::with_capacity(raw.data.len() / BLOCK * 34);
    for q in raw.data[..info.rows * info.cols].chunks_exact(BLOCK) {
        blocks.extend(f16::ONE.to_le_bytes());
        blocks.extend(q);
    }
    let scales = raw.scales.as_chunks::<4>().0;
    Reblocked {
        blocks,
        factors: scales
            .iter()
            .map(|s| f32::from_le_bytes(*s) / 127.0)
            .collect(),
        addends: Vec::new(),
    }
}

fn affine(info: &TensorInfo, raw: &RawRows, bits: u8, group: usize) -> Reblocked {
    let groups = info.cols / group;
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let halves = bytes.as_chunks::<2>().0.iter();
        halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
    };
    let (scales, biases) = (floats(&raw.scales), floats(&raw.biases));
    let mut made = Reblocked {
        blocks: Vec::new(),
        factors: Vec::with_capacity(info.rows),
        addends: Vec::new(),
    };
    let per_row = info.cols * usize::from(bits) / 8;
    for (row, data) in raw.data.chunks_exact(per_row).enumerate() {
        let scales = &scales[row * groups..][..groups];
        let biases = &biases[row * groups..][..groups];
        // Eight bits keep their addends outside the blocks, and in f32.
        let inside = if bits == 4 { biases } else { &[] };
        let largest = scales
            .iter()
            .chain(inside)
            .fold(0f32, |most, v| most.max(v.abs()));
        let factor = power_above(largest);
        made.factors.push(factor);
        let half = |v: f32| f16::from_f32(v / factor).to_le_bytes();
        for (block, q) in data.chunks_exact(BLOCK * usize::from(bits) / 8).enumerate() {
            let of = block * BLOCK / group;
            made.blocks.extend(half(scales[of]));
            if bits == 8 {
                // From 0..=255 to -128..=127.
                made.blocks.extend(q.iter().map(|q| q ^ 0x80));
            } else {
                made.blocks.extend(half(biases[of]));
                // MLX has neighbours in a byte, GGML value `i` and value `i + 16`.
                let value = |i: usize| q[i / 2] >> (4 * (i % 2)) & 15;
                made.blocks
                    .extend((0..BLOCK / 2).map(|i| value(i) | value(i + BLOCK / 2) << 4));
            }
        }
        if bits == 8 {
            let addends = scales.iter().zip(biases).map(|(s, b)| b + 128.0 * s);
            made.addends.extend(addends);
        }
    }
    made
}

/// The power of two above a number, one for zero: what divides it to less than one, exactly.
fn power_above(v: f32) -> f32 {
    let exponent = v.to_bits() >> 23 & 0xff;
    match exponent {
        // Zero, numbers so small that they are none here, and so large that there is no power.
        0 | 253.. => 1.0,
        e => f32::from_bits((e + 1) << 23),
    }
}

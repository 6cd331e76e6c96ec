//! How the attention kernels are launched (`cuda/attention.h`, `cuda/attention_depth.cu`).

use super::shape::Shape;
use crate::formats::KvFormat;

/// Columns of a ring that a block reads. It alone, and a slot's position, decide in which order a
/// row's scores are added up.
pub(crate) const SPLIT: usize = 256;

/// Most sub-steps of a depth transformer.
pub(crate) const DEPTH_STEPS: usize = 32;

/// Widths of a head that there are kernels for.
pub(crate) const WIDTHS: [usize; 5] = [8, 16, 32, 64, 128];

/// The kernel for rings of a format and heads of a width; none if there is none.
pub(crate) fn kernel(format: KvFormat, head_dim: usize) -> Option<&'static str> {
    macro_rules! kernels {
        ($name:literal) => {
            match head_dim {
                8 => Some(concat!("kaiwa_attention_", $name, "_8")),
                16 => Some(concat!("kaiwa_attention_", $name, "_16")),
                32 => Some(concat!("kaiwa_attention_", $name, "_32")),
                64 => Some(concat!("kaiwa_attention_", $name, "_64")),
                128 => Some(concat!("kaiwa_attention_", $name, "_128")),
                _ => None,
            }
        };
    }
    match format {
        KvFormat::F32 => kernels!("f32"),
        KvFormat::Bf16 => kernels!("bf16"),
        KvFormat::Int8 => kernels!("int8"),
    }
}

/// Splits of a ring of `context` columns.
pub(crate) fn splits(context: usize, split: usize) -> usize {
    context.div_ceil(split)
}

/// Size of the launch of an attention kernel.
pub(crate) fn shape(context: usize, split: usize, kv_heads: usize, rows: usize) -> Shape {
    Shape {
        grid: [splits(context, split) as u32, kv_heads as u32, rows as u32],
        block: 128,
        shared: 0,
    }
}

/// Numbers of `AttentionArgs::partial`; launches that follow each other may share it.
pub(crate) fn partial_floats(
    context: usize,
    split: usize,
    heads: usize,
    head_dim: usize,
    rows: usize,
) -> usize {
    match splits(context, split) {
        1 => 0,
        splits => rows * heads * splits * (head_dim + 2),
    }
}

/// Size of the launch of `kaiwa_attention_depth`.
pub(crate) fn depth_shape(heads: usize, rows: usize) -> Shape {
    Shape {
        grid: [(rows * heads).div_ceil(4) as u32, 1, 1],
        block: 128,
        shared: 0,
    }
}

/// `AttentionArgs::score_scale`: scores are powers of two.
pub(crate) fn score_scale(head_dim: usize) -> f32 {
    (std::f64::consts::LOG2_E / (head_dim as f64).sqrt()) as f32
}

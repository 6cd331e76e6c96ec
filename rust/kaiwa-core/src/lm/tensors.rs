//! The weights of a language model under one set of names, whatever file they come from.
//!
//! Names are those of layout A (docs/spec/checkpoints.md 1) with one tensor per weight set, as
//! adapters spell them (section 6):
//!
//! | name | shape |
//! |---|---|
//! | `text_emb.weight` | `[text_card + 1, dim]` |
//! | `emb.{i}.weight`, i < n_q | `[card + 1, dim]` |
//! | `text_linear.weight` | `[text_card_out, dim]` |
//! | `out_norm.alpha` (or `.weight`, `.bias`) | `[dim]` |
//! | `transformer.layers.{l}.self_attn.in_projs.0.weight` | `[dim + 2 dim / kv_repeat, dim]` |
//! | `transformer.layers.{l}.self_attn.out_projs.0.weight` | `[dim, dim]` |
//! | `transformer.layers.{l}.gating.linear_in.weight`, `.linear_out.weight` | `[2 hidden, dim]`, `[dim, hidden]` |
//! | `transformer.layers.{l}.linear1.weight`, `linear2.weight` (no gating) | `[hidden, dim]`, `[dim, hidden]` |
//! | `transformer.layers.{l}.norm1.alpha`, `norm2.alpha` (or `.weight`, `.bias`) | `[dim]` |
//! | `transformer.layers.{l}.layer_scale_1.scale`, `layer_scale_2.scale` | `[dim]` |
//! | `depformer_in.{w}.weight`, w a weight set | `[depth dim, dim]` |
//! | `depformer_text_emb.weight` | `[text_card + 1, depth dim or low rank]` |
//! | `depformer_emb.{j}.weight`, j < dep_q - 1 | `[card + 1, depth dim or low rank]` |
//! | `depformer_text_emb.low_rank.weight`, `depformer_emb.{j}.low_rank.weight` | `[depth dim, low rank]` |
//! | `depformer.layers.{l}.self_attn.in_projs.{w}.weight`, `out_projs.{w}.weight` | as above |
//! | `depformer.layers.{l}.gating.{w}.linear_in.weight`, `.linear_out.weight` | as above |
//! | `depformer.layers.{l}.norm1.alpha`, `norm2.alpha`, `layer_scale_1.scale`... | `[depth dim]` |
//! | `depformer_norms.{k}.alpha` (or `.weight`, `.bias`), k < dep_q | `[depth dim]` |
//! | `linears.{k}.weight`, k < dep_q | `[card, depth dim]` |
//! | `condition.{name}.embed.weight`, `.output_proj.weight`, `.learnt_padding` | `[bins + 1, c]`, `[dim, c]`, `[dim]` |

use std::ops::Range;

use candle_core::quantized::GgmlDType;

use super::LmConfig;
use crate::error::Result;

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

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Outputs of a matrix; 1 for a vector.
    pub rows: usize,
    /// Inputs of a matrix, or length of a vector.
    pub cols: usize,
    /// How it lies in its file.
    pub encoding: Encoding,
    /// True if an adapter changes it: then raw rows are not its values, and only
    /// [`LmTensors::read_f32`] is.
    pub merged: bool,
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

/// A model's tensors by name (see the module's table). Reading takes `&self` and may happen on
/// several threads at once.
pub trait LmTensors: Send + Sync {
    /// The sizes that the tensors were checked against.
    fn config(&self) -> &LmConfig;

    /// All names, in the order of the model.
    fn names(&self) -> Vec<String>;

    /// Shape and encoding of a tensor.
    ///
    /// # Errors
    /// [`crate::Error::TensorNames`] if there is no such tensor.
    fn info(&self, name: &str) -> Result<TensorInfo>;

    /// Rows as they lie in the file.
    fn read_raw(&self, name: &str, rows: Range<usize>, into: &mut RawRows) -> Result<()>;

    /// Rows as f32, dequantised, with the adapter merged; `out` is `[rows, cols]`.
    ///
    /// # Errors
    /// Also [`crate::Error::TensorNotFinite`].
    fn read_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()>;
}

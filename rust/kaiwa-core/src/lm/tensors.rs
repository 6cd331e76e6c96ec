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
//! | `extra_heads.{i}.weight`, i < extra heads | `[classes, dim]` |
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

use super::LmConfig;
use crate::checkpoint::{Encoding, RawRows};
use crate::error::Result;

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

//! Sizes of a model: the PyTorch-schema `config.json` translated for the crate.

use std::path::Path;

use candle::{Error, Result};
use moshi::NormType;
use moshi::lm::{Config, DepFormerConfig};
use moshi::transformer::{Config as Transformer, PositionalEmbedding};
use serde_json::Value;

/// What the driver needs besides the crate's own configuration.
pub struct Sizes {
    /// For the crate.
    pub lm: Config,
    /// Codebooks that the model speaks.
    pub dep_q: usize,
    /// Audio streams in all.
    pub n_q: usize,
    /// Audio vocabulary; this id is the initial token.
    pub card: u32,
    /// Text vocabulary; this id is the initial token.
    pub text_card: u32,
    /// Delay of each stream, text first.
    pub delays: Vec<usize>,
}

impl Sizes {
    /// Reads the file; anything that the crate cannot run is an error.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let json: Value = serde_json::from_str(&text).map_err(Error::wrap)?;
        Self::from_json(&json)
    }

    fn from_json(json: &Value) -> Result<Self> {
        let dim = number(json, "dim")?;
        let layers = number(json, "num_layers")?;
        let n_q = number(json, "n_q")?;
        let dep_q = number(json, "dep_q")?;
        let card = number(json, "card")?;
        let text_card = number(json, "text_card")?;
        let scale = json["hidden_scale"].as_f64().unwrap_or(4.0);
        let depth_dim = number(json, "depformer_dim")?;
        let depth_ff = json["depformer_dim_feedforward"]
            .as_u64()
            .map_or((scale * depth_dim as f64) as usize, |ff| ff as usize);
        for (key, wanted) in [
            ("norm", "rms_norm_f32"),
            ("gating", "silu"),
            ("positional_embedding", "rope"),
            ("depformer_pos_emb", "none"),
        ] {
            if json[key].as_str() != Some(wanted) {
                candle::bail!(
                    "config.json: {key} is {}, this program knows {wanted:?}",
                    json[key]
                );
            }
        }
        if json["kv_repeat"].as_u64().unwrap_or(1) != 1 {
            candle::bail!("config.json: kv_repeat is not 1, which the crate cannot run");
        }
        let delays: Vec<usize> = json["delays"]
            .as_array()
            .map(|d| {
                d.iter()
                    .filter_map(Value::as_u64)
                    .map(|d| d as usize)
                    .collect()
            })
            .unwrap_or_default();
        if delays.len() != n_q + 1 || dep_q == 0 || dep_q > n_q {
            candle::bail!(
                "config.json: {n_q} streams, {dep_q} spoken, {} delays",
                delays.len()
            );
        }
        let transformer = Transformer {
            d_model: dim,
            num_heads: number(json, "num_heads")?,
            num_layers: layers,
            causal: true,
            norm_first: true,
            bias_ff: false,
            bias_attn: false,
            layer_scale: json["layer_scale"].as_f64(),
            positional_embedding: PositionalEmbedding::Rope,
            use_conv_block: false,
            cross_attention: None,
            conv_kernel_size: 3,
            use_conv_bias: true,
            gating: Some(candle_nn::Activation::Silu),
            norm: NormType::RmsNorm,
            context: number(json, "context")?,
            max_period: json["max_period"].as_f64().unwrap_or(1e4) as usize,
            max_seq_len: 4096,
            kv_repeat: 1,
            dim_feedforward: feedforward(dim, (scale * dim as f64) as usize)?,
            conv_layout: false,
            shared_cross_attn: false,
        };
        let depth = Transformer {
            d_model: depth_dim,
            num_heads: number(json, "depformer_num_heads")?,
            num_layers: json["depformer_num_layers"]
                .as_u64()
                .map_or(layers, |n| n as usize),
            positional_embedding: PositionalEmbedding::None,
            context: dep_q,
            dim_feedforward: feedforward(depth_dim, depth_ff)?,
            layer_scale: json["depformer_layer_scale"].as_f64(),
            ..transformer.clone()
        };
        let low_rank = json["depformer_low_rank_embeddings"]
            .as_u64()
            .map(|r| r as usize);
        Ok(Self {
            lm: Config {
                transformer,
                depformer: Some(DepFormerConfig {
                    transformer: depth,
                    num_slices: dep_q,
                    low_rank_embeddings: low_rank,
                }),
                text_in_vocab_size: text_card + 1,
                text_out_vocab_size: text_card,
                audio_vocab_size: card + 1,
                audio_codebooks: n_q,
                conditioners: None,
                extra_heads: None,
            },
            dep_q,
            n_q,
            card: card as u32,
            text_card: text_card as u32,
            delays,
        })
    }
}

fn number(json: &Value, key: &str) -> Result<usize> {
    match json[key].as_u64() {
        Some(n) if n > 0 => Ok(n as usize),
        _ => candle::bail!(
            "config.json: {key} is {}, not a positive integer",
            json[key]
        ),
    }
}

/// The crate's `dim_feedforward` that gives the gated width which PyTorch derives from its own.
/// The two treat the value `4 dim` differently.
fn feedforward(dim: usize, ff: usize) -> Result<usize> {
    let hidden = if ff == 4 * dim {
        21 * dim / 8
    } else {
        2 * ff / 3
    };
    if hidden == 11 * dim / 4 {
        return Ok(4 * dim);
    }
    let candidates = [(3 * hidden).div_ceil(2), (3 * hidden).div_ceil(2) + 1];
    candidates
        .into_iter()
        .find(|&ff| ff != 4 * dim && 2 * ff / 3 == hidden)
        .ok_or_else(|| Error::msg(format!("the crate cannot express a width of {hidden}")))
}

#[cfg(test)]
mod tests {
    use super::feedforward;

    /// Width of the crate's gated part, by its published rule.
    fn width(dim: usize, ff: usize) -> usize {
        if ff == 4 * dim {
            11 * dim / 4
        } else {
            2 * ff / 3
        }
    }

    #[test]
    fn widths_agree_with_pytorch() {
        for (dim, ff, hidden) in [
            (4096, 16896, 11264),
            (1024, 4224, 2816),
            (1024, 4096, 2688),
            (128, 384, 256),
            (64, 192, 128),
        ] {
            assert_eq!(width(dim, feedforward(dim, ff).unwrap()), hidden);
        }
    }
}

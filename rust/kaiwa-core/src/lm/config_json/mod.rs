//! Reading a language model's `config.json` (docs/spec/checkpoints.md 7): the released schema, its
//! defaults and inheritance (docs/spec/moshi.md 8), and every rule that the values must keep.

mod check;
mod file;
mod resolve;

use serde_json::{Map, Value};

use self::check::check;
use self::file::{Names, Sizing};
use super::{DepthConfig, FeedForward, LmConfig, Norm, Rope, Sampling};
use crate::error::Result;
use crate::json;

pub(crate) use self::resolve::hidden_of;

/// What a `config.json` says beside the sizes: names of files and adapters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Envelope {
    /// File of the language model.
    pub moshi_name: Option<String>,
    /// File of the codec.
    pub mimi_name: Option<String>,
    /// File of the tokenizer.
    pub tokenizer_name: Option<String>,
    /// File of an adapter.
    pub lora_name: Option<String>,
    /// True if the repository says that an adapter belongs to it.
    pub lora: bool,
    /// Rank of the adapter.
    pub lora_rank: Option<usize>,
    /// Scaling of the adapter, if it is given.
    pub lora_scaling: Option<f64>,
    /// True if matrices are 8-bit rows.
    pub quantize: bool,
    /// Entries of the architecture that are missing and so take a default that no released model
    /// has (docs/spec/checkpoints.md 7).
    pub left_out: Vec<&'static str>,
}

/// Entries whose defaults no released model has.
const DEFAULTS_OF_NO_MODEL: [&str; 10] = [
    "dim",
    "num_heads",
    "hidden_scale",
    "gating",
    "norm",
    "n_q",
    "dep_q",
    "card",
    "delays",
    "depformer_dim",
];

/// Entries of the depth transformer.
const DEPTH: [&str; 13] = [
    "depformer_dim",
    "depformer_num_heads",
    "depformer_num_layers",
    "depformer_dim_feedforward",
    "depformer_gating",
    "depformer_layer_scale",
    "depformer_kv_repeat",
    "depformer_multi_linear",
    "depformer_weights_per_step",
    "depformer_weights_per_step_schedule",
    "depformer_low_rank_embeddings",
    "depformer_norm",
    "depformer_pos_emb",
];

/// Entries that name files or belong to training and other programs: not looked at here.
const NOT_SIZES: [&str; 14] = [
    "moshi_name",
    "mimi_name",
    "mimi_config_name",
    "tokenizer_name",
    "lora_name",
    "model_id",
    "tts_config",
    "quantize",
    "lora",
    "lora_rank",
    "lora_scaling",
    "depformer_context",
    "depformer_causal",
    "depformer_max_period",
];

impl LmConfig {
    /// The released 7B, which is meant where a repository has no `config.json`.
    pub fn moshi_7b() -> Self {
        let mut delays = vec![1; 17];
        (delays[0], delays[1], delays[9]) = (0, 0, 0);
        Self {
            model_type: "moshi".into(),
            dim: 4096,
            num_layers: 32,
            num_heads: 32,
            kv_repeat: 1,
            hidden: 11264,
            feed_forward: FeedForward::SwiGlu,
            layer_scale: false,
            norm: Norm::rms(1e-8),
            context: 3000,
            max_period: 10_000.0,
            rope: Rope::Interleaved,
            n_q: 16,
            dep_q: 8,
            spoken: 8,
            card: 2048,
            text_card: 32_000,
            text_card_out: 32_000,
            delays,
            padding_id: 3,
            end_padding_id: 0,
            depth: Some(DepthConfig {
                dim: 1024,
                num_layers: 6,
                num_heads: 16,
                kv_repeat: 1,
                hidden: vec![2816; 8],
                feed_forward: FeedForward::SwiGlu,
                layer_scale: false,
                schedule: (0..8).collect(),
                low_rank: None,
                final_norm: None,
            }),
            conditions: Vec::new(),
            extra_heads: (0, 6),
            speech_to_text: None,
            sampling: Sampling::default(),
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the entry: wrong types, unknown or unsupported entries, and
    /// values that do not go together.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut map = object(text)?;
        resolve::refuse_other_models(&map)?;
        map.retain(|key, _| !NOT_SIZES.contains(&key.as_str()));
        if map.get("dep_q").and_then(json::whole) == Some(0) {
            // Without sub-steps their entries mean nothing.
            map.retain(|key, _| !DEPTH.contains(&key.as_str()));
        }
        let sizing: Sizing = json::read(&map)?;
        let config = resolve::resolve(sizing, &map)?;
        check(&config)?;
        Ok(config)
    }
}

impl Envelope {
    /// Reads the names of files out of a `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for wrong types.
    pub fn from_json(text: &str) -> Result<Self> {
        let map = object(text)?;
        let names: Names = json::read(&map)?;
        let present = |key: &str| map.get(key).is_some_and(|value| !value.is_null());
        Ok(Self {
            moshi_name: names.moshi_name,
            mimi_name: names.mimi_name,
            tokenizer_name: names.tokenizer_name,
            lora_name: names.lora_name,
            lora: names.lora.unwrap_or(false),
            lora_rank: names.lora_rank.map(|n| n.0),
            lora_scaling: names.lora_scaling.map(|n| n.0),
            quantize: names.quantize.unwrap_or(false),
            left_out: DEFAULTS_OF_NO_MODEL
                .into_iter()
                .filter(|key| !present(key))
                .collect(),
        })
    }
}

fn object(text: &str) -> Result<Map<String, Value>> {
    json::object(
        text,
        "pass the config.json that belongs to the language model",
    )
}

//! The entries of a `config.json` as they stand in the file.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::json::{Object, Positive, Size, Sizes, checked, present, sizes, whole};
use crate::lm::{FeedForward, Norm};

/// Names of files and the adapter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Names {
    pub moshi_name: Option<String>,
    pub mimi_name: Option<String>,
    pub tokenizer_name: Option<String>,
    pub lora_name: Option<String>,
    pub lora: Option<bool>,
    pub lora_rank: Option<Size>,
    pub lora_scaling: Option<Positive>,
    pub quantize: Option<bool>,
}

/// The architecture.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sizing {
    pub model_type: Option<String>,
    pub positional_embedding: Option<String>,
    pub dim: Option<Size>,
    pub hidden_scale: Option<Positive>,
    pub gating: Option<Gate>,
    pub card: Option<Size>,
    pub text_card: Option<Size>,
    pub text_card_out: Option<Size>,
    pub n_q: Option<Size>,
    pub dep_q: Option<Size>,
    pub num_layers: Option<Size>,
    pub num_heads: Option<Size>,
    pub kv_repeat: Option<Size>,
    pub norm: Option<NamedNorm>,
    pub layer_scale: Option<Positive>,
    pub delays: Option<Sizes>,
    pub context: Option<Size>,
    pub max_period: Option<Positive>,
    pub existing_text_padding_id: Option<Size>,
    pub existing_text_end_padding_id: Option<Size>,
    pub extra_heads_num_heads: Option<Size>,
    pub extra_heads_dim: Option<Size>,
    pub depformer_dim: Option<Size>,
    pub depformer_num_heads: Option<Size>,
    pub depformer_num_layers: Option<Size>,
    pub depformer_dim_feedforward: Option<OneOrMany>,
    pub depformer_gating: Option<Gate>,
    /// Present and null is no scale; absent is that of the temporal transformer.
    #[serde(deserialize_with = "present")]
    pub depformer_layer_scale: Option<Option<Positive>>,
    pub depformer_kv_repeat: Option<Size>,
    pub depformer_multi_linear: Option<bool>,
    pub depformer_weights_per_step: Option<bool>,
    pub depformer_weights_per_step_schedule: Option<Sizes>,
    pub depformer_low_rank_embeddings: Option<Size>,
    pub depformer_norm: Option<NamedNorm>,
    pub depformer_pos_emb: Option<String>,
    pub lm_gen_config: Option<Object<Generation>>,
    pub stt_config: Option<Object<SpeechToText>>,
    pub conditioners: Option<Conditioners>,
    pub fuser: Option<Map<String, Value>>,
    // Of these only one value is supported.
    pub norm_emb: Option<Value>,
    pub bias_proj: Option<Value>,
    pub cross_attention: Option<Value>,
    pub demux_second_text_stream: Option<Value>,
    pub demux_second_stream: Option<Value>,
    pub causal: Option<Value>,
    pub positional_scale: Option<Value>,
}

/// Feed-forward kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate(pub FeedForward);

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        checked(from, "use \"silu\" or \"none\"", |v| match v.as_str() {
            Some("silu") => Some(Self(FeedForward::SwiGlu)),
            Some("none") => Some(Self(FeedForward::Gelu)),
            _ => None,
        })
    }
}

/// A norm by its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedNorm(pub Norm);

impl<'de> Deserialize<'de> for NamedNorm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "use \"rms_norm_f32\", \"rms_norm\", \"layer_norm\" or \"layer_norm_f32\"";
        checked(from, wanted, |v| {
            let named = Norm::NAMED.into_iter().find(|(name, _)| v == name);
            named.map(|(_, norm)| Self(norm))
        })
    }
}

/// A number for all weight sets, or one for each.
#[derive(Debug)]
pub(super) enum OneOrMany {
    One(usize),
    Many(Vec<usize>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "use a whole number from 0 to 10 000 000, or a list of them";
        checked(from, wanted, |v| match v {
            Value::Array(_) => sizes(v).map(Self::Many),
            _ => whole(v).map(Self::One),
        })
    }
}

/// Sampling settings; other entries are not looked at. Null is not a setting.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Generation {
    #[serde(deserialize_with = "present")]
    pub temp: Option<NotNegative>,
    #[serde(deserialize_with = "present")]
    pub temp_text: Option<NotNegative>,
    /// Another spelling of `temp_text`.
    #[serde(deserialize_with = "present")]
    pub text_temp: Option<NotNegative>,
    #[serde(deserialize_with = "present")]
    pub top_k: Option<NotNegative>,
    #[serde(deserialize_with = "present")]
    pub top_k_text: Option<NotNegative>,
    pub use_sampling: Option<Value>,
}

/// Delays of a speech to text model; other entries are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SpeechToText {
    pub audio_delay_seconds: Option<NotNegative>,
    pub audio_silence_prefix_seconds: Option<NotNegative>,
}

/// A number of at least 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotNegative(pub f64);

impl<'de> Deserialize<'de> for NotNegative {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = |v: &Value| v.as_f64().filter(|v| v.is_finite() && *v >= 0.0);
        checked(from, "use a number of at least 0", number).map(Self)
    }
}

/// Conditioners by name, in the order of the file's reader.
#[derive(Debug, Default)]
pub(super) struct Conditioners(pub Vec<(String, Object<Conditioner>)>);

impl<'de> Deserialize<'de> for Conditioners {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Conditioners;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Conditioners, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Conditioners(all))
            }
        }
        from.deserialize_map(Entries)
    }
}

/// One conditioner; other entries are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditioner {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub lut: Option<Object<Lut>>,
}

/// The table of a look-up conditioner; other entries are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lut {
    pub n_bins: Option<Size>,
    pub dim: Option<Size>,
    pub possible_values: Option<Vec<String>>,
}

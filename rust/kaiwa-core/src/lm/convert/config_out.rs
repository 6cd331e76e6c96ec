//! Writing a `config.json` that reads back to the same sizes (docs/spec/checkpoints.md 7).

use serde_json::{Map, Value, json};

use super::Target;
use crate::lm::config_json::hidden_of;
use crate::lm::{FeedForward, LmConfig, Norm, Rope};

/// The configuration in the released schema, for a file of `target` called `file_name`.
pub fn config_json(config: &LmConfig, target: Target, file_name: &str) -> String {
    let c = config;
    let scale = |on: bool| if on { json!(0.01) } else { Value::Null };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| drop(map.insert(key.into(), value));
    put("model_type", json!(c.model_type));
    put("moshi_name", json!(file_name));
    put("dim", json!(c.dim));
    put("num_layers", json!(c.num_layers));
    put("num_heads", json!(c.num_heads));
    put("kv_repeat", json!(c.kv_repeat));
    put("hidden_scale", json!(hidden_scale(c)));
    put("gating", json!(gating(c.feed_forward)));
    put("layer_scale", scale(c.layer_scale));
    put("norm", json!(norm(c.norm)));
    put("causal", json!(true));
    put("context", json!(c.context));
    put("max_period", json!(c.max_period));
    let rope = match c.rope {
        Rope::Interleaved => "rope",
        Rope::NeoX => "rope_concat",
    };
    put("positional_embedding", json!(rope));
    put("n_q", json!(c.n_q));
    put("dep_q", json!(c.dep_q));
    put("card", json!(c.card));
    put("text_card", json!(c.text_card));
    if c.text_card_out != c.text_card {
        put("text_card_out", json!(c.text_card_out));
    }
    put("delays", json!(c.delays));
    put("existing_text_padding_id", json!(c.padding_id));
    put("existing_text_end_padding_id", json!(c.end_padding_id));
    if let Some(d) = &c.depth {
        put("depformer_dim", json!(d.dim));
        put("depformer_num_heads", json!(d.num_heads));
        put("depformer_num_layers", json!(d.num_layers));
        put("depformer_kv_repeat", json!(d.kv_repeat));
        let widths: Vec<usize> = d
            .hidden
            .iter()
            .map(|h| feed_forward(d.feed_forward, *h, d.dim))
            .collect();
        let same = widths.windows(2).all(|w| w[0] == w[1]);
        put(
            "depformer_dim_feedforward",
            match widths.first() {
                Some(first) if same => json!(first),
                _ => json!(widths),
            },
        );
        put("depformer_gating", json!(gating(d.feed_forward)));
        put("depformer_layer_scale", scale(d.layer_scale));
        put("depformer_multi_linear", json!(true));
        put("depformer_weights_per_step", json!(true));
        put("depformer_pos_emb", json!("none"));
        if d.schedule.iter().enumerate().any(|(k, w)| k != *w) {
            put("depformer_weights_per_step_schedule", json!(d.schedule));
        }
        if let Some(rank) = d.low_rank {
            put("depformer_low_rank_embeddings", json!(rank));
        }
        if let Some(kind) = d.final_norm {
            put("depformer_norm", json!(norm(kind)));
        }
    }
    if !c.conditions.is_empty() {
        let all: Map<String, Value> = c
            .conditions
            .iter()
            .map(|one| {
                let lut = json!({"n_bins": one.bins, "dim": one.dim, "tokenizer": "noop",
                    "possible_values": one.values});
                (one.name.clone(), json!({"type": "lut", "lut": lut}))
            })
            .collect();
        let names: Vec<&String> = all.keys().collect();
        put("fuser", json!({"sum": names}));
        put("conditioners", Value::Object(all.clone()));
    }
    if c.extra_heads.0 > 0 {
        put("extra_heads_num_heads", json!(c.extra_heads.0));
        put("extra_heads_dim", json!(c.extra_heads.1));
    }
    if let Some(stt) = &c.speech_to_text {
        put(
            "stt_config",
            json!({"audio_delay_seconds": stt.audio_delay_seconds,
                "audio_silence_prefix_seconds": stt.audio_silence_prefix_seconds}),
        );
    }
    let s = c.sampling;
    // f32 to the shortest decimal that reads back.
    let short = |v: f32| v.to_string().parse::<f64>().unwrap_or_default();
    put(
        "lm_gen_config",
        json!({"temp": short(s.temp), "temp_text": short(s.temp_text), "top_k": s.top_k,
            "top_k_text": s.top_k_text}),
    );
    if target == Target::PyTorchInt8 {
        put("quantize", json!(true));
    }
    serde_json::to_string_pretty(&Value::Object(map)).unwrap_or_default()
}

fn gating(kind: FeedForward) -> &'static str {
    match kind {
        FeedForward::SwiGlu => "silu",
        FeedForward::Gelu => "none",
    }
}

/// The name of a norm; no configuration leads to one that has none.
fn norm(norm: Norm) -> &'static str {
    let named = Norm::NAMED.into_iter().find(|(_, n)| *n == norm);
    named.map_or("rms_norm_f32", |(name, _)| name)
}

/// A feed-forward size whose formula gives `hidden`.
fn feed_forward(kind: FeedForward, hidden: usize, dim: usize) -> usize {
    let around = (3 * hidden).div_ceil(2);
    let candidates = [hidden, around, around + 1, 4 * dim];
    let fits = |ff: &usize| hidden_of(kind, *ff, dim) == hidden;
    candidates.into_iter().find(fits).unwrap_or(around)
}

/// A scale that, times the width and cut off, gives the feed-forward size.
fn hidden_scale(c: &LmConfig) -> f64 {
    let ff = feed_forward(c.feed_forward, c.hidden, c.dim);
    let scale = ff as f64 / c.dim as f64;
    match (scale * c.dim as f64) as usize == ff {
        true => scale,
        false => (ff as f64 + 0.5) / c.dim as f64,
    }
}

//! From the entries of a file to sizes: defaults, inheritance, and what is not supported.

use serde_json::{Map, Value};

use super::file::{Conditioners, Gate, Generation, NamedNorm, OneOrMany, Sizing, SpeechToText};
use crate::error::{Error, Result};
use crate::json::{self, Object, Size, Sizes};
use crate::lm::{
    Condition, DepthConfig, FeedForward, LmConfig, Norm, Rope, Sampling, SpeechToTextConfig,
};

/// Width inside a feed-forward part (docs/spec/moshi.md 3.7).
pub(crate) fn hidden_of(kind: FeedForward, ff: usize, dim: usize) -> usize {
    match kind {
        FeedForward::Gelu => ff,
        FeedForward::SwiGlu if ff == 4 * dim => 21 * dim / 8,
        FeedForward::SwiGlu => 2 * ff / 3,
    }
}

/// Says so where a file is that of another kind of model, whose entries are not known here.
pub(super) fn refuse_other_models(map: &Map<String, Value>) -> Result<()> {
    let kind = map.get("model_type").and_then(Value::as_str);
    let wanted = if kind == Some("tts") {
        "text to speech models are not supported yet"
    } else if map.contains_key("seanet") || kind == Some("mimi") {
        "this is the codec's file: pass the language model's"
    } else {
        return Ok(());
    };
    Err(json::error(map, &["model_type"], wanted))
}

/// The sizes that a file means. `map` is what it holds, for errors.
pub(super) fn resolve(file: Sizing, map: &Map<String, Value>) -> Result<LmConfig> {
    let error = |key: &str, wanted: &str| json::error(map, &[key], wanted);
    only_supported(&file, map)?;
    let rope = match file.positional_embedding.as_deref() {
        Some("rope") => Rope::Interleaved,
        Some("rope_concat") => Rope::NeoX,
        _ => {
            let wanted = "only \"rope\" and \"rope_concat\" are supported";
            return Err(error("positional_embedding", wanted));
        }
    };
    let dim = size(file.dim).unwrap_or(128);
    let scale = file.hidden_scale.map_or(4.0, |scale| scale.0);
    let feed_forward = file.gating.map_or(FeedForward::Gelu, |gate| gate.0);
    let n_q = size(file.n_q).unwrap_or(8);
    let dep_q = size(file.dep_q).unwrap_or(8);
    let num_layers = needed(file.num_layers, "num_layers", map)?;
    let text_card = size(file.text_card).unwrap_or(32_000);
    let delays = file.delays.as_ref().map_or(vec![0], |list| list.0.clone());
    let Some(context) = size(file.context) else {
        let wanted = "streaming needs a limited attention window: use a number";
        return Err(error("context", wanted));
    };
    let main = Main {
        scale,
        feed_forward,
        layer_scale: file.layer_scale.is_some(),
        kv_repeat: size(file.kv_repeat).unwrap_or(1),
        num_layers,
        dep_q,
    };
    let depth = match dep_q {
        0 => None,
        _ => Some(resolve_depth(&file, &main, map)?),
    };
    // The later half of sixteen sub-steps predicts the codes of the user, who supplies them
    // (docs/spec/moshi.md 9.5).
    let spoken = match dep_q == n_q && dep_q == 16 && delays.len() == 17 {
        true => 8,
        false => dep_q,
    };
    Ok(LmConfig {
        dim,
        num_layers,
        num_heads: size(file.num_heads).unwrap_or(8),
        kv_repeat: main.kv_repeat,
        hidden: hidden_of(feed_forward, (scale * dim as f64) as usize, dim),
        feed_forward,
        layer_scale: main.layer_scale,
        norm: file.norm.map_or(Norm::layer(1e-5), |norm| norm.0),
        context,
        max_period: file.max_period.map_or(10_000.0, |period| period.0),
        rope,
        n_q,
        dep_q,
        spoken,
        card: size(file.card).unwrap_or(1024),
        text_card,
        text_card_out: size(file.text_card_out).unwrap_or(text_card),
        delays,
        padding_id: size(file.existing_text_padding_id).unwrap_or(3),
        end_padding_id: size(file.existing_text_end_padding_id).unwrap_or(0),
        depth,
        conditions: conditions(file.conditioners, file.fuser, map)?,
        extra_heads: (
            size(file.extra_heads_num_heads).unwrap_or(0),
            size(file.extra_heads_dim).unwrap_or(6),
        ),
        speech_to_text: (dep_q == 0).then(|| speech_to_text(file.stt_config)),
        sampling: match (dep_q, file.lm_gen_config) {
            // Speech to text takes the likeliest (docs/spec/moshi.md 5).
            (0, None) => Sampling {
                temp: 0.0,
                temp_text: 0.0,
                ..Sampling::default()
            },
            (_, found) => sampling(found.unwrap_or_default().0),
        },
        model_type: file.model_type.unwrap_or_else(|| "moshi".into()),
    })
}

fn size(entry: Option<Size>) -> Option<usize> {
    entry.map(|size| size.0)
}

fn needed(entry: Option<Size>, key: &str, map: &Map<String, Value>) -> Result<usize> {
    let found = size(entry).filter(|n| *n > 0);
    found.ok_or_else(|| json::error(map, &[key], "it is needed, as a whole number from 1"))
}

/// Refuses what only one value of is supported; null and absence are that value.
fn only_supported(file: &Sizing, map: &Map<String, Value>) -> Result<()> {
    let off = |value: &Value| value == &Value::Bool(false);
    for (key, entry) in [
        ("norm_emb", &file.norm_emb),
        ("bias_proj", &file.bias_proj),
        ("cross_attention", &file.cross_attention),
        ("demux_second_text_stream", &file.demux_second_text_stream),
        ("demux_second_stream", &file.demux_second_stream),
    ] {
        if entry.as_ref().is_some_and(|value| !off(value)) {
            return Err(json::error(map, &[key], "not supported"));
        }
    }
    if file
        .causal
        .as_ref()
        .is_some_and(|v| v != &Value::Bool(true))
    {
        return Err(json::error(map, &["causal"], "only true can stream"));
    }
    let one = |value: &Value| value.as_f64() == Some(1.0);
    if file.positional_scale.as_ref().is_some_and(|v| !one(v)) {
        let wanted = "only 1 is supported";
        return Err(json::error(map, &["positional_scale"], wanted));
    }
    Ok(())
}

/// What the depth transformer inherits.
struct Main {
    scale: f64,
    feed_forward: FeedForward,
    layer_scale: bool,
    kv_repeat: usize,
    num_layers: usize,
    dep_q: usize,
}

fn resolve_depth(file: &Sizing, main: &Main, map: &Map<String, Value>) -> Result<DepthConfig> {
    let error = |key: &str, wanted: String| json::error(map, &[key], wanted);
    let dim = size(file.depformer_dim).unwrap_or(256);
    let feed_forward = file
        .depformer_gating
        .map_or(main.feed_forward, |Gate(kind)| kind);
    if file.depformer_pos_emb.as_deref() != Some("none") {
        let wanted = "only \"none\" is supported".into();
        return Err(error("depformer_pos_emb", wanted));
    }
    for (key, entry) in [
        ("depformer_multi_linear", file.depformer_multi_linear),
        (
            "depformer_weights_per_step",
            file.depformer_weights_per_step,
        ),
    ] {
        if entry != Some(true) {
            return Err(error(key, "only true is supported".into()));
        }
    }
    let schedule = match &file.depformer_weights_per_step_schedule {
        Some(Sizes(schedule)) => schedule.clone(),
        None => (0..main.dep_q).collect(),
    };
    let key = "depformer_weights_per_step_schedule";
    if schedule.len() != main.dep_q {
        return Err(error(
            key,
            format!("it needs dep_q = {} entries", main.dep_q),
        ));
    }
    let sets = schedule.iter().max().map_or(0, |w| w + 1);
    if let Some(gap) = (0..sets.min(4096)).find(|w| !schedule.contains(w)) {
        let wanted = format!("weight set {gap} is not used: number them from 0");
        return Err(error(key, wanted));
    }
    let widths = match &file.depformer_dim_feedforward {
        Some(OneOrMany::Many(widths)) => widths.clone(),
        Some(OneOrMany::One(width)) => vec![*width; sets],
        None => vec![(main.scale * dim as f64) as usize; sets],
    };
    if widths.len() != sets {
        let wanted = format!("a list needs an entry for each of the {sets} weight sets");
        return Err(error("depformer_dim_feedforward", wanted));
    }
    let hidden = widths.iter().map(|ff| hidden_of(feed_forward, *ff, dim));
    Ok(DepthConfig {
        dim,
        num_layers: size(file.depformer_num_layers).unwrap_or(main.num_layers),
        num_heads: needed(file.depformer_num_heads, "depformer_num_heads", map)?,
        kv_repeat: size(file.depformer_kv_repeat).unwrap_or(main.kv_repeat),
        hidden: hidden.collect(),
        feed_forward,
        layer_scale: match &file.depformer_layer_scale {
            None => main.layer_scale,
            Some(scale) => scale.is_some(),
        },
        schedule,
        low_rank: size(file.depformer_low_rank_embeddings),
        final_norm: file.depformer_norm.map(|NamedNorm(norm)| norm),
    })
}

fn conditions(
    conditioners: Option<Conditioners>,
    fuser: Option<Map<String, Value>>,
    map: &Map<String, Value>,
) -> Result<Vec<Condition>> {
    let unsupported = |(key, value): (&String, &Value)| {
        let empty = value.as_array().is_some_and(Vec::is_empty) || value.is_null();
        let harmless = key.starts_with("cross_attention_pos_emb") || key == "sum";
        !harmless && !empty
    };
    if fuser.iter().flatten().any(unsupported) {
        return Err(json::error(map, &["fuser"], "only \"sum\" is supported"));
    }
    let mut found = Vec::new();
    for (name, Object(one)) in conditioners.unwrap_or_default().0 {
        let error = |wanted: &str| -> Error { json::error(map, &["conditioners", &name], wanted) };
        let wanted = "it needs \"type\": \"lut\" and \"lut\": {n_bins, dim, possible_values}";
        match one.kind.as_deref() {
            Some("lut") => {}
            Some(_) => return Err(error("only type \"lut\" is supported")),
            None => return Err(error(wanted)),
        }
        let Object(lut) = one.lut.ok_or_else(|| error(wanted))?;
        let at_least_one = |entry| size(entry).filter(|n| *n > 0).ok_or_else(|| error(wanted));
        let (bins, dim) = (at_least_one(lut.n_bins)?, at_least_one(lut.dim)?);
        let values = lut.possible_values.unwrap_or_default();
        if values.len() > bins {
            return Err(error("n_bins must cover possible_values"));
        }
        found.push(Condition {
            name: name.clone(),
            values,
            bins,
            dim,
        });
    }
    Ok(found)
}

/// Delays; what is left out is that of the released model with the shorter ones.
fn speech_to_text(file: Option<Object<SpeechToText>>) -> SpeechToTextConfig {
    let Object(file) = file.unwrap_or_default();
    SpeechToTextConfig {
        audio_delay_seconds: file.audio_delay_seconds.map_or(0.5, |delay| delay.0),
        audio_silence_prefix_seconds: file.audio_silence_prefix_seconds.map_or(0.0, |s| s.0),
    }
}

fn sampling(file: Generation) -> Sampling {
    let mut sampling = Sampling::default();
    if let Some(temp) = file.temp {
        sampling.temp = temp.0 as f32;
    }
    if let Some(temp) = file.text_temp.or(file.temp_text) {
        sampling.temp_text = temp.0 as f32;
    }
    if let Some(top_k) = file.top_k {
        sampling.top_k = top_k.0 as usize;
    }
    if let Some(top_k) = file.top_k_text {
        sampling.top_k_text = top_k.0 as usize;
    }
    if file.use_sampling == Some(Value::Bool(false)) {
        (sampling.temp, sampling.temp_text) = (0.0, 0.0);
    }
    sampling
}

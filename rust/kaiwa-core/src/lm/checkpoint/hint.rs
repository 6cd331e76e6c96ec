//! What is probably wrong, when a file does not fit (spec checkpoints.md 9 and 10).

use std::path::PathBuf;

use super::files::Files;
use super::layout::{Layout, candidates, repeats};
use crate::error::{Error, Result};
use crate::lm::LmConfig;
use crate::lm::schema::{self, Kind, Spec};

/// Count and first ten of a list of names.
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let first: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
    let more = if names.len() > 10 { ", ..." } else { "" };
    format!("{} ({}{more})", names.len(), first.join(", "))
}

/// Files that are something else altogether.
pub(super) fn foreign(files: &Files) -> Option<Error> {
    let has = |name: &str| files.entries.contains_key(name);
    let starts = |prefix: &str| files.entries.keys().any(|n| n.starts_with(prefix));
    let contains = |part: &str| files.entries.keys().any(|n| n.contains(part));
    let error = |found: &str, remedy: &str| {
        Some(Error::WrongFile {
            path: files.path(0),
            found: found.into(),
            wanted: "a Moshi language model",
            remedy: remedy.into(),
        })
    };
    if contains("lora_A") && !has("text_linear.weight") {
        return error(
            "a LoRA adapter",
            "pass the base model as the source and this file as lora",
        );
    }
    if starts("quantizer.rvq_first.") || starts("encoder.model.0.") || starts("quantizer.semantic")
    {
        return error(
            "a Mimi codec",
            "load it with kaiwa.Mimi, and pass the language model here",
        );
    }
    if has("speaker_wavs") {
        return error("a voice of a text to speech model", "pass a Moshi model");
    }
    if starts("depth_decoder.") || starts("decoder.model.") {
        return error(
            "a model of the transformers library",
            "use one of Kyutai's own repositories, such as kyutai/moshika-pytorch-bf16",
        );
    }
    if starts("model.layers.") {
        return error("a text language model", "pass a Moshi model");
    }
    if !has("text_emb.weight") && !has("text_linear.weight") {
        return error(
            "a safetensors file without a text table or head",
            "pass a Moshi language model, such as model.safetensors of kyutai/moshika-pytorch-bf16",
        );
    }
    None
}

/// A sentence on why names do not fit.
pub(super) fn likely(
    layout: Layout,
    config: &LmConfig,
    missing: &[String],
    unexpected: &[String],
) -> String {
    let found = format!("the file has the {} layout", layout.name());
    let any = |list: &[String], part: &str| list.iter().any(|n| n.contains(part));
    let reason = if any(unexpected, "cross_attention") || any(unexpected, "norm_cross") {
        "it belongs to a text to speech model, which is not supported".into()
    } else if any(unexpected, "lora_") {
        "it has adapter weights inside: pass the base model, and the adapter as lora".into()
    } else if any(unexpected, "low_rank") || any(missing, "low_rank") {
        "depformer_low_rank_embeddings does not fit: pass the config.json of these weights".into()
    } else if any(unexpected, "linears.") || any(missing, "linears.") || any(missing, "linear_out")
    {
        format!(
            "the number of sub-steps differs (the configuration says dep_q {}): pass the \
             config.json of these weights",
            config.dep_q
        )
    } else if any(unexpected, "layers.") || any(missing, "layers.") {
        format!(
            "the number of layers may differ (the configuration says num_layers {}): pass the \
             config.json of these weights, or add the missing shards",
            config.num_layers
        )
    } else if any(unexpected, "emb") || any(missing, "emb") {
        format!(
            "the number of streams may differ (the configuration says n_q {}): pass the \
             config.json of these weights",
            config.n_q
        )
    } else {
        "pass the config.json of these weights, or download the file again".into()
    };
    format!("{found}; {reason}")
}

/// The complaint about one tensor's shape.
pub(super) fn misshapen(
    path: PathBuf,
    name: String,
    found: &[usize],
    expected: Vec<usize>,
    spec: &Spec,
    config: &LmConfig,
) -> Error {
    let steps = match spec.name.starts_with("depformer") {
        true => format!(" and dep_q {}", config.dep_q),
        false => String::new(),
    };
    let value = match spec.entry {
        "text_card" => format!("text_card {} and dim {}", config.text_card, config.dim),
        "card" => format!("card {} and dim {}", config.card, config.dim),
        "hidden_scale" => format!("hidden_scale (which gives {} inside)", config.hidden),
        "kv_repeat" => format!("dim {}, kv_repeat {}{steps}", config.dim, config.kv_repeat),
        "dim" => format!("dim {}{steps}", config.dim),
        other => other.to_owned(),
    };
    Error::TensorConfig {
        path,
        name,
        found: found.to_vec(),
        expected,
        entry: value.into(),
    }
}

/// Copies of the norms in per-step layouts must be equal.
pub(super) fn check_repeats(files: &Files, layout: Layout, config: &LmConfig) -> Result<()> {
    let (mut first, mut other) = (Vec::new(), Vec::new());
    for spec in schema::tensors(config) {
        if spec.kind != Kind::Vector || !spec.name.starts_with("depformer.") {
            continue;
        }
        let names = repeats(layout, &spec.name, config);
        let Some(own) = candidates(layout, &spec.name, config).into_iter().next() else {
            continue;
        };
        let size = |name: &str| match files.encoding(name) {
            Some(crate::lm::Encoding::F32) => spec.cols * 4,
            _ => spec.cols * 2,
        };
        for name in names.iter().filter(|n| files.entries.contains_key(*n)) {
            files.read(&own.name, 0, size(&own.name), &mut first)?;
            files.read(name, 0, size(name), &mut other)?;
            if first != other {
                return Err(Error::WrongFile {
                    path: files.path(0),
                    found: format!("a file in which {} and {name} differ", own.name),
                    wanted: "norms that all sub-steps share",
                    remedy: "download the file again".into(),
                });
            }
        }
    }
    Ok(())
}

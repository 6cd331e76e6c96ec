//! Guessing why a file does not hold the tensors that a configuration implies.

use std::collections::BTreeSet;

use super::MimiConfig;
use crate::checkpoint::SafeTensorsFile;

/// How many names a message shows.
const SHOWN: usize = 5;

/// "none", or the count and the first names.
pub(super) fn preview<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    if count == 0 {
        return "none".into();
    }
    let shown: Vec<_> = names.take(SHOWN).collect();
    let dots = if count > SHOWN { ", ..." } else { "" };
    format!("{count} ({}{dots})", shown.join(", "))
}

/// The likeliest reason and what to do about it.
pub(super) fn hint(file: &SafeTensorsFile, config: &MimiConfig) -> String {
    let names: BTreeSet<&str> = file.names().collect();
    let starts = |prefix: &str| names.iter().any(|n| n.starts_with(prefix));
    if let Some(kind) = other_model(&names) {
        return format!(
            "this is {kind}: pass the codec's file, tokenizer-e351c8d8-checkpoint125.safetensors \
             or the model.safetensors of kyutai/mimi"
        );
    }
    for prefix in ["model.", "mimi.", "audio_encoder.", "module.", "codec."] {
        let inner = format!("{prefix}quantizer.");
        if !starts("quantizer.") && starts(&inner) {
            return format!("every name begins with {prefix:?}: save the codec on its own");
        }
    }
    let found = codebooks(file);
    let wanted = config.quantizer.n_q;
    if found != wanted && found > 0 {
        return format!(
            "the configuration says {wanted} codebooks, the file has {found}: pass the \
             config.json that belongs to these weights (num_codebooks chooses how many are used)"
        );
    }
    let found = layers(&names);
    let wanted = config.transformer.num_layers;
    if found != wanted && found > 0 {
        return format!(
            "the configuration says {wanted} transformer layers, the file has {found}: pass the \
             config.json that belongs to these weights"
        );
    }
    if starts("quantizer.") {
        "pass the config.json that belongs to these weights, or download the file again".into()
    } else {
        "this does not look like a Mimi codec: pass tokenizer-e351c8d8-checkpoint125.safetensors \
         or the model.safetensors of kyutai/mimi"
            .into()
    }
}

/// Other kinds of files from the same family of models (docs/spec/checkpoints.md 9).
fn other_model(names: &BTreeSet<&str>) -> Option<&'static str> {
    let has = |name: &str| names.contains(name);
    let starts = |prefix: &str| names.iter().any(|n| n.starts_with(prefix));
    if names.iter().any(|n| n.contains("lora_A")) && !has("text_linear.weight") {
        Some("a LoRA adapter of a language model")
    } else if starts("depformer") || has("text_emb.weight") || has("text_linear.weight") {
        Some("a Moshi language model file")
    } else if starts("depth_decoder.") || has("model.layers.0.self_attn.q_proj.weight") {
        Some("a language model file in the layout of transformers")
    } else if has("speaker_wavs") {
        Some("a voice file for speech synthesis")
    } else {
        None
    }
}

/// Number of codebooks in a file, by counting their vectors.
pub(super) fn codebooks(file: &SafeTensorsFile) -> usize {
    const VECTORS: [&str; 3] = [".embedding_sum", ".embed_sum", ".embed_avg"];
    file.names()
        .filter(|n| n.starts_with("quantizer.") && VECTORS.iter().any(|v| n.ends_with(v)))
        .count()
}

/// Number of encoder transformer layers in a file.
fn layers(names: &BTreeSet<&str>) -> usize {
    names
        .iter()
        .filter(|n| n.contains("encoder_transformer.") && n.ends_with(".linear1.weight"))
        .chain(
            names
                .iter()
                .filter(|n| n.contains("encoder_transformer.") && n.ends_with(".mlp.fc1.weight")),
        )
        .count()
}

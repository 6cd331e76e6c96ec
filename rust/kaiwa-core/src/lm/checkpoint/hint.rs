//! What is probably wrong, when a file does not fit (docs/spec/checkpoints.md 9 and 10).

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

/// What another kind of file is recognised by, what it is, and what to do.
struct Foreign {
    mark: Mark,
    what: &'static str,
    remedy: &'static str,
}

/// A sign in the names of a file's tensors.
enum Mark {
    Start(&'static str),
    Whole(&'static str),
    Part(&'static str),
}

const CODEC: &str = "load it with kaiwa.Mimi, and pass the language model here";
const MOSHI: &str = "pass a Moshi model, such as model.safetensors of kyutai/moshika-pytorch-bf16";
const OWN: &str = "use one of Kyutai's own repositories, such as kyutai/moshika-pytorch-bf16";

/// Files that end up in a model's place, the most telling signs first.
const FOREIGN: [Foreign; 20] = {
    use Mark::{Part, Start, Whole};
    const fn one(mark: Mark, what: &'static str, remedy: &'static str) -> Foreign {
        Foreign { mark, what, remedy }
    }
    [
        one(Start("quantizer.rvq_first."), "a Mimi codec", CODEC),
        one(Start("quantizer.semantic"), "a Mimi codec", CODEC),
        one(
            Start("encoder.model.0."),
            "a codec (Mimi or EnCodec)",
            CODEC,
        ),
        one(
            Start("encoder.layers.0.conv."),
            "a codec of the transformers library",
            CODEC,
        ),
        one(Start("mimi."), "a codec", CODEC),
        one(
            Whole("speaker_wavs"),
            "a voice of a text to speech model",
            MOSHI,
        ),
        one(
            Whole("codes"),
            "a file of codes, as kaiwa encode writes it",
            MOSHI,
        ),
        one(
            Start("depth_decoder."),
            "a model of the transformers library",
            OWN,
        ),
        one(
            Start("decoder.model."),
            "a model of the transformers library",
            OWN,
        ),
        one(
            Part("lora_A"),
            "a LoRA adapter",
            "pass the base model as the source and this file as lora",
        ),
        one(Part("lora_up."), "a LoRA adapter of an image model", MOSHI),
        one(Start("model.layers."), "a text language model", MOSHI),
        one(
            Start("language_model."),
            "a text or image language model",
            MOSHI,
        ),
        one(Start("transformer.h."), "a text language model", MOSHI),
        one(
            Start("model.encoder."),
            "a speech recognition model such as Whisper",
            MOSHI,
        ),
        one(
            Start("model.decoder."),
            "a speech recognition model such as Whisper",
            MOSHI,
        ),
        one(Start("encoder.blocks."), "a Whisper model", MOSHI),
        // GGUF of llama.cpp.
        one(
            Whole("token_embd.weight"),
            "a text language model in llama.cpp's naming",
            MOSHI,
        ),
        one(
            Start("blk."),
            "a text language model in llama.cpp's naming",
            MOSHI,
        ),
        one(Start("model.diffusion_model."), "an image model", MOSHI),
    ]
};

/// Files that are something else altogether.
pub(super) fn foreign(files: &Files) -> Option<Error> {
    let names = || files.entries.keys();
    let has = |name: &str| files.entries.contains_key(name);
    if has("text_emb.weight") || has("text_linear.weight") {
        return None;
    }
    let found = FOREIGN.iter().find(|foreign| match foreign.mark {
        Mark::Start(text) => names().any(|n| n.starts_with(text)),
        Mark::Whole(text) => has(text),
        Mark::Part(text) => names().any(|n| n.contains(text)),
    });
    let (what, remedy) = match found {
        Some(foreign) => (foreign.what, foreign.remedy),
        None if files.entries.is_empty() => ("a file without tensors", "download it again"),
        None => ("a file without a text table or head", MOSHI),
    };
    Some(Error::WrongFile {
        path: files.path(0),
        found: what.into(),
        wanted: "a Moshi language model",
        remedy: remedy.into(),
    })
}

/// A sentence on why names do not fit. `left_out` are entries that the configuration lacks.
pub(super) fn likely(
    layout: Layout,
    config: &LmConfig,
    missing: &[String],
    unexpected: &[String],
    left_out: &[&str],
) -> String {
    let found = format!("the file has the {} layout", layout.name());
    let any = |list: &[String], part: &str| list.iter().any(|n| n.contains(part));
    let either = |part: &str| any(missing, part) || any(unexpected, part);
    let config_of = "pass the config.json of these weights";
    let reason = if any(unexpected, "cross_attention") || any(unexpected, "norm_cross") {
        "it belongs to a text to speech model, which is not supported".into()
    } else if any(unexpected, "lora_") {
        "it has adapter weights inside: pass the base model, and the adapter as lora".into()
    } else if unexpected.is_empty() && partial(missing) {
        "it is a part of a model: pass the folder with all parts (model-00001-of-0000N.safetensors \
         and so on), or download it again"
            .into()
    } else if either("low_rank") {
        format!("depformer_low_rank_embeddings does not fit: {config_of}")
    } else if either("layer_scale") {
        format!("layer_scale or depformer_layer_scale does not fit: {config_of}")
    } else if either(".linear1.") {
        format!("gating or depformer_gating does not fit: {config_of}")
    } else if either("depformer_norms.") {
        format!("depformer_norm does not fit: {config_of}")
    } else if either("out_norm.") {
        format!("norm does not fit: {config_of}")
    } else if either("condition_provider.") {
        format!("conditioners does not fit: {config_of}")
    } else if either("linears.") || missing.iter().chain(unexpected).any(|n| is_head(n)) {
        format!(
            "the number of sub-steps differs (the configuration says dep_q {}): {config_of}",
            config.dep_q
        )
    } else if either("layers.") {
        format!(
            "the number of layers may differ (the configuration says num_layers {}): {config_of}, \
             or add the missing shards",
            config.num_layers
        )
    } else if either("emb") {
        format!(
            "the number of streams may differ (the configuration says n_q {}): {config_of}",
            config.n_q
        )
    } else {
        format!("{config_of}, or download the file again")
    };
    format!("{found}; {reason}{}", without(left_out))
}

/// Whether a name in a layout per sub-step is that of a codebook's head.
fn is_head(name: &str) -> bool {
    name.ends_with(".linear_out.weight") && !name.contains(".gating.")
}

/// Whether what is missing is no mere difference in numbers: then something that every model has
/// is missing, and something else of it is there.
fn partial(missing: &[String]) -> bool {
    const ALWAYS: [&str; 4] = [
        "text_emb.weight",
        "text_linear.weight",
        "emb.0.weight",
        "transformer.layers.0.self_attn.out_proj.weight",
    ];
    missing.iter().any(|name| {
        let name = name.replace("audio_embs.", "emb.");
        ALWAYS.contains(&name.as_str())
    })
}

/// What to say of entries that the configuration lacks; nothing if there are none.
fn without(left_out: &[&str]) -> String {
    match left_out.is_empty() {
        true => String::new(),
        false => format!(
            "; what config.json leaves out ({}) takes the defaults of the PyTorch package, which \
             are not the released model's",
            left_out.join(", ")
        ),
    }
}

/// The complaint about one tensor's shape.
pub(super) fn misshapen(
    path: PathBuf,
    name: String,
    found: &[usize],
    expected: Vec<usize>,
    spec: &Spec,
    config: &LmConfig,
    left_out: &[&str],
) -> Error {
    let (depth, steps) = match &config.depth {
        Some(depth) if spec.name.starts_with("depformer") || spec.name.starts_with("linears.") => {
            (Some(depth), format!(" and dep_q {}", config.dep_q))
        }
        _ => (None, String::new()),
    };
    // What the width of a table follows from.
    let width = match depth {
        None => format!("dim {}", config.dim),
        Some(depth) => match depth.low_rank.filter(|_| spec.kind == Kind::Table) {
            None => format!("depformer_dim {}", depth.dim),
            Some(rank) => format!("depformer_low_rank_embeddings {rank}"),
        },
    };
    let value = match spec.entry {
        "text_card" => format!("text_card {} and {width}", config.text_card),
        "card" => format!("card {} and {width}", config.card),
        "hidden_scale" if depth.is_some() => "depformer_dim_feedforward".into(),
        "hidden_scale" => format!("hidden_scale (which gives {} inside)", config.hidden),
        "kv_repeat" if depth.is_some() => format!("depformer_dim, depformer_kv_repeat{steps}"),
        "kv_repeat" => format!("dim {}, kv_repeat {}", config.dim, config.kv_repeat),
        "dim" if depth.is_some() => format!("depformer_dim{steps}"),
        "dim" => format!("dim {}", config.dim),
        other => other.to_owned(),
    };
    let value = match left_out.is_empty() {
        true => value,
        false => format!("{value} (config.json leaves out {})", left_out.join(", ")),
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
            Some(crate::checkpoint::Encoding::F32) => spec.cols * 4,
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

//! The names that other programs give to Mimi's tensors (docs/spec/mimi.md 6.1 and 6.2).

/// How a file stores one tensor: which of its names, and what to undo.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stored {
    /// Under this name, with the released shape.
    Plain(String),
    /// Under this name, as `[1, 1, D]` where the released shape is `[D]`.
    Alpha(String),
    /// As separate `[D, D]` matrices, the first two with rows ordered for half rotation.
    QueryKeyValue([String; 3]),
    /// As magnitude `[C, 1, 1]` and direction: unfolded weight norm.
    WeightNorm {
        /// Name of the magnitude.
        g: String,
        /// Name of the direction, with the released shape.
        v: String,
    },
}

impl Stored {
    /// All names of the file that take part.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::Plain(name) | Self::Alpha(name) => vec![name],
            Self::QueryKeyValue(names) => names.iter().map(String::as_str).collect(),
            Self::WeightNorm { g, v } => vec![g, v],
        }
    }
}

/// Every way in which a file may store the tensor of released name `name`, likeliest first.
pub(super) fn candidates(name: &str) -> Vec<Stored> {
    let mut list = Vec::new();
    let hf = transformers_name(name);
    let mut spellings = vec![name.to_owned()];
    spellings.extend(kyutai_variants(name));
    if let Some(hf) = &hf {
        spellings.push(hf.clone());
        spellings.push(transformers_5_module(hf));
    }
    for spelling in spellings {
        if let Some(stem) = convolution_stem(&spelling) {
            for (g, v) in [
                ("weight_g", "weight_v"),
                (
                    "parametrizations.weight.original0",
                    "parametrizations.weight.original1",
                ),
            ] {
                let (g, v) = (format!("{stem}.{g}"), format!("{stem}.{v}"));
                list.push(Stored::WeightNorm { g, v });
            }
        }
        list.push(Stored::Plain(spelling));
    }
    if let Some(stem) = name.strip_suffix(".weight").filter(|s| is_norm(s)) {
        list.push(Stored::Alpha(format!("{stem}.alpha")));
    }
    if let Some(layer) = name.strip_suffix(".self_attn.in_proj_weight") {
        let layer = layer.replace("_transformer.transformer.", "_transformer.");
        for layer in [layer.clone(), transformers_5_module(&layer)] {
            let part = |p: &str| format!("{layer}.self_attn.{p}_proj.weight");
            list.push(Stored::QueryKeyValue([part("q"), part("k"), part("v")]));
        }
    }
    list
}

/// Whether a name is a codebook's training flag, which inference does not need.
pub(super) fn is_training_flag(name: &str) -> bool {
    name.starts_with("quantizer.")
        && [
            "._codebook._initialized",
            "._codebook.inited",
            ".codebook.initialized",
        ]
        .iter()
        .any(|flag| name.ends_with(flag))
}

/// Spellings that Kyutai's own programs have used beside the released one.
fn kyutai_variants(name: &str) -> Vec<String> {
    let rename = |from: &str, to: &str| name.strip_suffix(from).map(|stem| format!("{stem}{to}"));
    [
        ("in_proj_weight", "in_projs.0.weight"),
        ("in_proj_weight", "in_proj.weight"),
        ("self_attn.out_proj.weight", "self_attn.out_projs.0.weight"),
        ("._codebook.cluster_usage", "._codebook.cluster_size"),
        ("._codebook.embedding_sum", "._codebook.embed_avg"),
        ("._codebook.embedding_sum", "._codebook.embed_sum"),
    ]
    .iter()
    .filter_map(|(from, to)| rename(from, to))
    .collect()
}

/// The name in files of Hugging Face `transformers`; `None` for the attention input, which is
/// split there, and for layers that it does not have.
fn transformers_name(name: &str) -> Option<String> {
    if name.ends_with("in_proj_weight") || name.contains("_transformer.input_proj") {
        return None;
    }
    let replacements = if name.contains("_transformer.transformer.") {
        &[
            ("_transformer.transformer.", "_transformer."),
            ("self_attn.out_proj.", "self_attn.o_proj."),
            (".norm1.", ".input_layernorm."),
            (".norm2.", ".post_attention_layernorm."),
            (".linear1.", ".mlp.fc1."),
            (".linear2.", ".mlp.fc2."),
            (".layer_scale_1.", ".self_attn_layer_scale."),
            (".layer_scale_2.", ".mlp_layer_scale."),
        ][..]
    } else if name.starts_with("quantizer.") {
        &[
            ("rvq_first.", "semantic_residual_vector_quantizer."),
            ("rvq_rest.", "acoustic_residual_vector_quantizer."),
            (".vq.layers.", ".layers."),
            ("._codebook.", ".codebook."),
            ("embedding_sum", "embed_sum"),
        ][..]
    } else {
        &[
            ("convtr.convtr.convtr.", "conv."),
            ("conv.conv.conv.", "conv."),
            ("convtr.convtr.", "conv."),
            ("conv.conv.", "conv."),
            ("coder.model.", "coder.layers."),
        ][..]
    };
    Some(
        replacements
            .iter()
            .fold(name.to_owned(), |name, (from, to)| name.replace(from, to)),
    )
}

/// Where version 5 of `transformers` keeps the same tensor in memory; a state dict saved by hand
/// has these names.
fn transformers_5_module(name: &str) -> String {
    for (from, to) in [
        ("encoder.layers.", "encoder.encoder_seanet.layers."),
        ("decoder.layers.", "decoder.decoder_seanet.layers."),
        ("encoder_transformer.", "encoder.encoder_transformer."),
        ("decoder_transformer.", "decoder.decoder_transformer."),
        ("downsample.", "encoder.downsample."),
        ("upsample.", "decoder.upsample."),
    ] {
        if let Some(rest) = name.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    name.to_owned()
}

/// The part before `.weight` of a convolution's weight.
fn convolution_stem(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".weight")?;
    (stem.ends_with(".conv") || stem.ends_with(".convtr")).then_some(stem)
}

fn is_norm(stem: &str) -> bool {
    stem.ends_with(".norm1") || stem.ends_with(".norm2")
}

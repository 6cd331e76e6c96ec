//! The `config.json` that Hugging Face `transformers` writes for Mimi, in the spellings of
//! versions 4 and 5 (docs/spec/mimi.md 6.2).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::values::{Causal, False, Mono, OneSemantic, PadMode, TrimRight, Window, only};
use super::{must_be, set};
use crate::codec::config::MimiConfig;
use crate::error::{Error, Result};
use crate::json::{self, Object, Positive, Size, Sizes, present};

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    sampling_rate: Option<Size>,
    frame_rate: Option<Positive>,
    /// Version 5 keeps what it was given under a private name.
    _frame_rate: Option<Positive>,

    hidden_size: Option<Size>,
    num_filters: Option<Size>,
    num_residual_layers: Option<Size>,
    compress: Option<Size>,
    dilation_growth_rate: Option<Size>,
    kernel_size: Option<Size>,
    residual_kernel_size: Option<Size>,
    last_kernel_size: Option<Size>,
    upsampling_ratios: Option<Sizes>,
    use_conv_shortcut: Option<bool>,
    pad_mode: Option<PadMode>,
    upsample_groups: Option<Size>,

    num_attention_heads: Option<Size>,
    num_key_value_heads: Option<Size>,
    head_dim: Option<Size>,
    num_hidden_layers: Option<Size>,
    #[serde(deserialize_with = "present")]
    sliding_window: Option<Window>,
    intermediate_size: Option<Size>,
    norm_eps: Option<Positive>,
    rope_theta: Option<Positive>,
    rope_parameters: Option<Object<Rope>>,
    rope_scaling: Option<Object<Rope>>,

    codebook_dim: Option<Size>,
    vector_quantization_hidden_dimension: Option<Size>,
    num_quantizers: Option<Size>,
    codebook_size: Option<Size>,

    // Read for their one supported value alone.
    #[serde(rename = "audio_channels")]
    _audio_channels: Option<Mono>,
    #[serde(rename = "use_causal_conv")]
    _use_causal_conv: Option<Causal>,
    #[serde(rename = "trim_right_ratio")]
    _trim_right_ratio: Option<TrimRight>,
    #[serde(rename = "hidden_act")]
    _hidden_act: Option<Gelu>,
    #[serde(rename = "attention_bias")]
    _attention_bias: Option<False>,
    #[serde(rename = "num_semantic_quantizers")]
    _num_semantic_quantizers: Option<OneSemantic>,
}

/// Rotary positions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rope {
    rope_theta: Option<Positive>,
    #[serde(rename = "rope_type")]
    _rope_type: Option<PlainRope>,
    /// The older spelling of `rope_type`.
    #[serde(rename = "type")]
    _type: Option<PlainRope>,
}

only!(Gelu, "gelu", "only \"gelu\" is supported");
only!(PlainRope, "default", "only \"default\" is supported");

/// Reads a file. Does not yet check that the widths fit together.
pub(super) fn read(map: &Map<String, Value>) -> Result<MimiConfig> {
    let file: File = json::read(map)?;
    let mut config = MimiConfig::default();
    set(&mut config.sample_rate, file.sampling_rate);
    set(&mut config.frame_rate, file.frame_rate.or(file._frame_rate));

    let seanet = &mut config.seanet;
    set(&mut seanet.dimension, file.hidden_size);
    set(&mut seanet.n_filters, file.num_filters);
    set(&mut seanet.n_residual_layers, file.num_residual_layers);
    set(&mut seanet.compress, file.compress);
    set(&mut seanet.dilation_base, file.dilation_growth_rate);
    set(&mut seanet.kernel_size, file.kernel_size);
    set(&mut seanet.residual_kernel_size, file.residual_kernel_size);
    set(&mut seanet.last_kernel_size, file.last_kernel_size);
    set(&mut seanet.ratios, file.upsampling_ratios);
    set(
        &mut seanet.true_skip,
        file.use_conv_shortcut.map(|shortcut| !shortcut),
    );
    set(&mut seanet.replicate_pad, file.pad_mode);
    let width = seanet.dimension;
    let equal = |entry, value, key: &str, wanted: &str| must_be(entry, value, map, &[key], wanted);
    let wanted = "it must equal hidden_size";
    equal(file.upsample_groups, width, "upsample_groups", wanted)?;

    let transformer = &mut config.transformer;
    transformer.d_model = width;
    transformer.io_dimension = width;
    set(&mut transformer.num_heads, file.num_attention_heads);
    set(&mut transformer.num_layers, file.num_hidden_layers);
    set(&mut transformer.context, file.sliding_window);
    set(&mut transformer.dim_feedforward, file.intermediate_size);
    set(&mut transformer.norm_eps, file.norm_eps);
    set(&mut transformer.max_period, file.rope_theta);
    for Object(rope) in [file.rope_parameters, file.rope_scaling]
        .into_iter()
        .flatten()
    {
        set(&mut transformer.max_period, rope.rope_theta);
    }
    let heads = transformer.num_heads;
    let wanted = "it must equal num_attention_heads";
    equal(
        file.num_key_value_heads,
        heads,
        "num_key_value_heads",
        wanted,
    )?;
    if let Some(head_dim) = width.checked_div(heads) {
        let wanted = "it must equal hidden_size / num_attention_heads";
        equal(file.head_dim, head_dim, "head_dim", wanted)?;
    }

    let quantizer = &mut config.quantizer;
    set(&mut quantizer.dimension, file.codebook_dim);
    set(&mut quantizer.n_q, file.num_quantizers);
    set(&mut quantizer.bins, file.codebook_size);
    let wanted = "it must equal codebook_dim";
    let key = "vector_quantization_hidden_dimension";
    let entry = file.vector_quantization_hidden_dimension;
    equal(entry, quantizer.dimension, key, wanted)?;
    Ok(config)
}

/// [`MimiConfig`]'s entries and their names in these files. Where an entry of one name stands for
/// two (`hidden_size`), both are here.
const NAMES: [(&str, &str); 21] = [
    ("sample_rate", "sampling_rate"),
    ("seanet.dimension", "hidden_size"),
    ("seanet.n_filters", "num_filters"),
    ("seanet.n_residual_layers", "num_residual_layers"),
    ("seanet.compress", "compress"),
    ("seanet.dilation_base", "dilation_growth_rate"),
    ("seanet.kernel_size", "kernel_size"),
    ("seanet.residual_kernel_size", "residual_kernel_size"),
    ("seanet.last_kernel_size", "last_kernel_size"),
    ("seanet.ratios", "upsampling_ratios"),
    ("transformer.d_model", "hidden_size"),
    ("transformer.input_dimension", "hidden_size"),
    ("transformer.num_heads", "num_attention_heads"),
    ("transformer.num_layers", "num_hidden_layers"),
    ("transformer.context", "sliding_window"),
    ("transformer.max_period", "rope_theta"),
    ("transformer.dim_feedforward", "intermediate_size"),
    ("transformer.norm_eps", "norm_eps"),
    ("quantizer.dimension", "codebook_dim"),
    ("quantizer.n_q", "num_quantizers"),
    ("quantizer.bins", "codebook_size"),
];

/// An error of [`MimiConfig::validate`], with the entries named as these files name them.
pub(super) fn in_its_names(error: Error) -> Error {
    let Error::Config { field, got, wanted } = error else {
        return error;
    };
    // In a rule's text an entry may stand without its section.
    let name = |word: &str| {
        let found = NAMES.iter().find(|(entry, _)| {
            word == *entry || (word.contains('_') && entry.split('.').next_back() == Some(word))
        });
        found.map_or_else(|| word.to_owned(), |(_, in_file)| (*in_file).to_owned())
    };
    let wanted: Vec<String> = (wanted.split(' '))
        .map(|word| match word.strip_suffix(',') {
            Some(word) => name(word) + ",",
            None => name(word),
        })
        .collect();
    Error::Config {
        field: name(&field),
        got,
        wanted: wanted.join(" "),
    }
}

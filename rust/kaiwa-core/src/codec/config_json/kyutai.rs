//! Kyutai's `mimi_config` JSON (docs/spec/mimi.md 6.3).

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::values::{Causal, False, Mono, OneSemantic, PadMode, TrimRight, True, Window, only};
use super::{must_be, set};
use crate::codec::config::MimiConfig;
use crate::error::Result;
use crate::json::{self, Object, Positive, Size, Sizes, checked, present};

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    sample_rate: Option<Size>,
    frame_rate: Option<Positive>,
    seanet: Option<Object<Seanet>>,
    quantizer: Option<Object<Quantizer>>,
    transformer: Option<Object<Transformer>>,
    // Read for their one supported value alone, as in the objects below.
    #[serde(rename = "channels")]
    _channels: Option<Mono>,
    #[serde(rename = "causal")]
    _causal: Option<Causal>,
    #[serde(rename = "resample_method")]
    _resample_method: Option<ByConvolution>,
    #[serde(rename = "upsample_channel_wise_bug")]
    _depthwise_upsampling: Option<True>,
    #[serde(rename = "renormalize")]
    _renormalize: Option<False>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seanet {
    dimension: Option<Size>,
    n_filters: Option<Size>,
    n_residual_layers: Option<Size>,
    compress: Option<Size>,
    dilation_base: Option<Size>,
    kernel_size: Option<Size>,
    residual_kernel_size: Option<Size>,
    last_kernel_size: Option<Size>,
    ratios: Option<Sizes>,
    true_skip: Option<bool>,
    pad_mode: Option<PadMode>,
    #[serde(rename = "channels")]
    _channels: Option<Mono>,
    #[serde(rename = "causal")]
    _causal: Option<Causal>,
    #[serde(rename = "activation")]
    _activation: Option<Elu>,
    #[serde(rename = "activation_params")]
    _activation_params: Option<EluAlpha>,
    #[serde(rename = "final_activation")]
    _final_activation: Option<NullOnly>,
    #[serde(rename = "norm")]
    _norm: Option<NoNorm>,
    #[serde(rename = "disable_norm_outer_blocks")]
    _disable_norm_outer_blocks: Option<Zero>,
    #[serde(rename = "lstm")]
    _lstm: Option<NoLstm>,
    #[serde(rename = "trim_right_ratio")]
    _trim_right_ratio: Option<TrimRight>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Quantizer {
    dimension: Option<Size>,
    n_q: Option<Size>,
    bins: Option<Size>,
    input_dimension: Option<Size>,
    output_dimension: Option<Size>,
    #[serde(rename = "n_q_semantic")]
    _n_q_semantic: Option<OneSemantic>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transformer {
    d_model: Option<Size>,
    num_heads: Option<Size>,
    num_layers: Option<Size>,
    #[serde(deserialize_with = "present")]
    context: Option<Window>,
    max_period: Option<Positive>,
    dim_feedforward: Option<Size>,
    input_dimension: Option<Size>,
    output_dimensions: Option<Sizes>,
    /// The value is where training began; only whether there is one matters. Null is none, and
    /// absence the released model's.
    #[serde(deserialize_with = "present")]
    layer_scale: Option<Option<LayerScale>>,
    #[serde(rename = "causal")]
    _causal: Option<Causal>,
    #[serde(rename = "conv_layout")]
    _conv_layout: Option<True>,
    #[serde(rename = "gating")]
    _gating: Option<NoGating>,
    #[serde(rename = "norm")]
    _norm: Option<LayerNorm>,
    #[serde(rename = "positional_embedding")]
    _positional_embedding: Option<RopeOnly>,
    #[serde(rename = "positional_scale")]
    _positional_scale: Option<One>,
    #[serde(rename = "kv_repeat")]
    _kv_repeat: Option<One>,
    #[serde(rename = "cross_attention")]
    _cross_attention: Option<False>,
    #[serde(rename = "qk_layer_norm")]
    _qk_layer_norm: Option<False>,
    #[serde(rename = "bias_proj")]
    _bias_proj: Option<False>,
    #[serde(rename = "bias_attn")]
    _bias_attn: Option<False>,
    #[serde(rename = "bias_ff")]
    _bias_ff: Option<False>,
}

only!(ByConvolution, "conv", "only \"conv\" is supported");
only!(Elu, "ELU", "only \"ELU\" is supported");
only!(EluAlpha, {"alpha": 1.0}, "only {\"alpha\": 1.0} is supported");
only!(NullOnly, null, "only null is supported");
only!(
    NoNorm,
    "none",
    "only \"none\" is supported (files with unfolded weight norm are read too, but under this name)"
);
only!(Zero, 0, "only 0 is supported");
only!(NoLstm, 0, "recurrent layers are not supported");
only!(NoGating, "none", "only \"none\" is supported");
only!(LayerNorm, "layer_norm", "only \"layer_norm\" is supported");
only!(RopeOnly, "rope", "only \"rope\" is supported");
only!(One, 1, "only 1 is supported");

#[derive(Debug)]
struct LayerScale;

impl<'de> Deserialize<'de> for LayerScale {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let number = |v: &Value| v.is_number().then_some(Self);
        checked(from, "use a number or null", number)
    }
}

/// Reads a file. Does not yet check that the widths fit together.
pub(super) fn read(map: &Map<String, Value>) -> Result<MimiConfig> {
    let file: File = json::read(map)?;
    let mut config = MimiConfig::default();
    set(&mut config.sample_rate, file.sample_rate);
    set(&mut config.frame_rate, file.frame_rate);

    let Object(given) = file.seanet.unwrap_or_default();
    let seanet = &mut config.seanet;
    set(&mut seanet.dimension, given.dimension);
    set(&mut seanet.n_filters, given.n_filters);
    set(&mut seanet.n_residual_layers, given.n_residual_layers);
    set(&mut seanet.compress, given.compress);
    set(&mut seanet.dilation_base, given.dilation_base);
    set(&mut seanet.kernel_size, given.kernel_size);
    set(&mut seanet.residual_kernel_size, given.residual_kernel_size);
    set(&mut seanet.last_kernel_size, given.last_kernel_size);
    set(&mut seanet.ratios, given.ratios);
    set(&mut seanet.true_skip, given.true_skip);
    set(&mut seanet.replicate_pad, given.pad_mode);
    let latent = seanet.dimension;

    let Object(given) = file.quantizer.unwrap_or_default();
    set(&mut config.quantizer.dimension, given.dimension);
    set(&mut config.quantizer.n_q, given.n_q);
    set(&mut config.quantizer.bins, given.bins);
    for (key, entry) in [
        ("input_dimension", given.input_dimension),
        ("output_dimension", given.output_dimension),
    ] {
        let wanted = "it must equal seanet.dimension";
        must_be(entry, latent, map, &["quantizer", key], wanted)?;
    }

    let Object(given) = file.transformer.unwrap_or_default();
    let transformer = &mut config.transformer;
    set(&mut transformer.d_model, given.d_model);
    set(&mut transformer.num_heads, given.num_heads);
    set(&mut transformer.num_layers, given.num_layers);
    set(&mut transformer.context, given.context);
    set(&mut transformer.max_period, given.max_period);
    set(&mut transformer.dim_feedforward, given.dim_feedforward);
    // The latent feeds the transformers, so without an entry their input has its width.
    transformer.io_dimension = latent;
    set(&mut transformer.io_dimension, given.input_dimension);
    set(
        &mut transformer.layer_scale,
        given.layer_scale.map(|scale| scale.is_some()),
    );
    if (given.output_dimensions).is_some_and(|Sizes(widths)| widths != [transformer.io_dimension]) {
        let wanted = "it must hold exactly one number, equal to input_dimension";
        return Err(json::error(
            map,
            &["transformer", "output_dimensions"],
            wanted,
        ));
    }
    Ok(config)
}

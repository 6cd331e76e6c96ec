//! Reading the `config.json` that Hugging Face `transformers` writes for Mimi, in the spellings
//! of versions 4 and 5 (docs/spec/mimi.md 6.2).

use serde_json::Value;

use super::config::MimiConfig;
use super::config_section::Section;
use crate::error::Result;

/// Reads the schema of `transformers`. Does not yet check that the widths fit together.
pub(super) fn read(root: &Section<'_>) -> Result<MimiConfig> {
    let mut config = MimiConfig::default();
    root.size("sampling_rate", &mut config.sample_rate)?;
    // Version 5 keeps what it was given under a private name.
    root.number("_frame_rate", &mut config.frame_rate)?;
    root.number("frame_rate", &mut config.frame_rate)?;
    root.only("audio_channels", 1.into(), "only mono is supported")?;

    let seanet = &mut config.seanet;
    root.size("hidden_size", &mut seanet.dimension)?;
    root.size("num_filters", &mut seanet.n_filters)?;
    root.size("num_residual_layers", &mut seanet.n_residual_layers)?;
    root.size("compress", &mut seanet.compress)?;
    root.size("dilation_growth_rate", &mut seanet.dilation_base)?;
    root.size("kernel_size", &mut seanet.kernel_size)?;
    root.size("residual_kernel_size", &mut seanet.residual_kernel_size)?;
    root.size("last_kernel_size", &mut seanet.last_kernel_size)?;
    root.sizes("upsampling_ratios", &mut seanet.ratios)?;
    let mut conv_shortcut = false;
    root.flag("use_conv_shortcut", &mut conv_shortcut)?;
    seanet.true_skip = !conv_shortcut;
    root.pad_mode(&mut seanet.replicate_pad)?;
    root.only(
        "use_causal_conv",
        true.into(),
        "only causal models can stream",
    )?;
    root.only(
        "trim_right_ratio",
        1.into(),
        "only causal models can stream",
    )?;
    let width = seanet.dimension;
    root.only("upsample_groups", width.into(), "it must equal hidden_size")?;

    let transformer = &mut config.transformer;
    transformer.d_model = width;
    transformer.io_dimension = width;
    root.size("num_attention_heads", &mut transformer.num_heads)?;
    root.size("num_hidden_layers", &mut transformer.num_layers)?;
    root.required_size("sliding_window", &mut transformer.context)?;
    root.size("intermediate_size", &mut transformer.dim_feedforward)?;
    root.number("norm_eps", &mut transformer.norm_eps)?;
    root.number("rope_theta", &mut transformer.max_period)?;
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(rope) = root.section(key)? {
            rope.number("rope_theta", &mut transformer.max_period)?;
            for kind in ["rope_type", "type"] {
                rope.only(kind, "default".into(), "only \"default\" is supported")?;
            }
        }
    }
    let heads = transformer.num_heads;
    root.only(
        "num_key_value_heads",
        heads.into(),
        "it must equal num_attention_heads",
    )?;
    if let Some(head_dim) = width.checked_div(heads) {
        let wanted = "it must equal hidden_size / num_attention_heads";
        root.only("head_dim", head_dim.into(), wanted)?;
    }
    root.only("hidden_act", "gelu".into(), "only \"gelu\" is supported")?;
    root.only(
        "attention_bias",
        Value::Bool(false),
        "only false is supported",
    )?;

    let quantizer = &mut config.quantizer;
    root.size("codebook_dim", &mut quantizer.dimension)?;
    root.size("num_quantizers", &mut quantizer.n_q)?;
    root.size("codebook_size", &mut quantizer.bins)?;
    root.only(
        "vector_quantization_hidden_dimension",
        quantizer.dimension.into(),
        "it must equal codebook_dim",
    )?;
    root.only(
        "num_semantic_quantizers",
        1.into(),
        "only one semantic codebook is supported",
    )?;
    Ok(config)
}

//! Reading Kyutai's `mimi_config` JSON (docs/spec/mimi.md 6.3).
//!
//! Entries that change the computation but have only one supported value are read too, so that
//! a model of another kind is refused instead of running wrongly.

use serde_json::Value;

use super::config::MimiConfig;
use super::config_section::Section;
use crate::error::Result;

/// Reads Kyutai's schema. Does not yet check that the widths fit together.
pub(super) fn read(root: &Section<'_>) -> Result<MimiConfig> {
    let mut config = MimiConfig::default();
    root.size("sample_rate", &mut config.sample_rate)?;
    root.number("frame_rate", &mut config.frame_rate)?;
    root.only("channels", 1.into(), "only mono is supported")?;
    root.only("causal", true.into(), "only causal models can stream")?;
    root.only(
        "resample_method",
        "conv".into(),
        "only \"conv\" is supported",
    )?;
    root.only(
        "upsample_channel_wise_bug",
        true.into(),
        "only true is supported",
    )?;
    root.only("renormalize", false.into(), "only false is supported")?;

    if let Some(section) = root.section("seanet")? {
        let seanet = &mut config.seanet;
        section.size("dimension", &mut seanet.dimension)?;
        section.size("n_filters", &mut seanet.n_filters)?;
        section.size("n_residual_layers", &mut seanet.n_residual_layers)?;
        section.size("compress", &mut seanet.compress)?;
        section.size("dilation_base", &mut seanet.dilation_base)?;
        section.size("kernel_size", &mut seanet.kernel_size)?;
        section.size("residual_kernel_size", &mut seanet.residual_kernel_size)?;
        section.size("last_kernel_size", &mut seanet.last_kernel_size)?;
        section.sizes("ratios", &mut seanet.ratios)?;
        section.flag("true_skip", &mut seanet.true_skip)?;
        section.pad_mode(&mut seanet.replicate_pad)?;
        section.only("channels", 1.into(), "only mono is supported")?;
        section.only("causal", true.into(), "only causal models can stream")?;
        section.only("activation", "ELU".into(), "only \"ELU\" is supported")?;
        section.only(
            "activation_params",
            serde_json::json!({"alpha": 1.0}),
            ELU_ALPHA,
        )?;
        section.only("final_activation", Value::Null, "only null is supported")?;
        section.only("norm", "none".into(), NO_NORM)?;
        section.only("disable_norm_outer_blocks", 0.into(), "only 0 is supported")?;
        section.only("lstm", 0.into(), "recurrent layers are not supported")?;
        section.only(
            "trim_right_ratio",
            1.into(),
            "only causal models can stream",
        )?;
    }

    if let Some(section) = root.section("quantizer")? {
        section.size("dimension", &mut config.quantizer.dimension)?;
        section.size("n_q", &mut config.quantizer.n_q)?;
        section.size("bins", &mut config.quantizer.bins)?;
        for key in ["input_dimension", "output_dimension"] {
            section.only(
                key,
                config.seanet.dimension.into(),
                "it must equal seanet.dimension",
            )?;
        }
        section.only(
            "n_q_semantic",
            1.into(),
            "only one semantic codebook is supported",
        )?;
    }

    // The latent feeds the transformers, so without an entry their input has its width.
    config.transformer.io_dimension = config.seanet.dimension;
    if let Some(section) = root.section("transformer")? {
        let transformer = &mut config.transformer;
        section.size("d_model", &mut transformer.d_model)?;
        section.size("num_heads", &mut transformer.num_heads)?;
        section.size("num_layers", &mut transformer.num_layers)?;
        section.required_size("context", &mut transformer.context)?;
        section.number("max_period", &mut transformer.max_period)?;
        section.size("dim_feedforward", &mut transformer.dim_feedforward)?;
        section.size("input_dimension", &mut transformer.io_dimension)?;
        let mut outputs = vec![transformer.io_dimension];
        section.sizes("output_dimensions", &mut outputs)?;
        if outputs != [transformer.io_dimension] {
            let wanted = "it must hold exactly one number, equal to input_dimension";
            return Err(section.error("output_dimensions", wanted));
        }
        transformer.layer_scale = match section.map.get("layer_scale") {
            None => true,
            Some(Value::Null) => false,
            Some(Value::Number(_)) => true,
            Some(_) => return Err(section.error("layer_scale", "use a number or null")),
        };
        section.only("causal", true.into(), "only causal models can stream")?;
        section.only("conv_layout", true.into(), "only true is supported")?;
        section.only("gating", "none".into(), "only \"none\" is supported")?;
        section.only(
            "norm",
            "layer_norm".into(),
            "only \"layer_norm\" is supported",
        )?;
        section.only(
            "positional_embedding",
            "rope".into(),
            "only \"rope\" is supported",
        )?;
        section.only("kv_repeat", 1.into(), "only 1 is supported")?;
        for key in [
            "cross_attention",
            "qk_layer_norm",
            "bias_proj",
            "bias_attn",
            "bias_ff",
        ] {
            section.only(key, false.into(), "only false is supported")?;
        }
    }
    Ok(config)
}

const NO_NORM: &str = "only \"none\" is supported (files with unfolded weight norm are read too, \
                       but under this name)";
const ELU_ALPHA: &str = "only {\"alpha\": 1.0} is supported";

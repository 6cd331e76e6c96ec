//! Telling configuration files apart, and reading Kyutai's schema (docs/spec/mimi.md 6.3).
//!
//! Entries that change the computation but have only one supported value are read too, so that
//! a model of another kind is refused instead of running wrongly.

use serde_json::{Map, Value};

use super::{MimiConfig, config_hf};
use crate::error::{Error, Result};

/// Reads either schema. Does not yet check that the widths fit together.
pub(super) fn read(text: &str) -> Result<MimiConfig> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::Config {
        field: "(whole file)".into(),
        got: format!("not valid JSON ({e})"),
        wanted: "pass Mimi's configuration as JSON, or none for the released model".into(),
    })?;
    let Value::Object(map) = value else {
        return Err(wrong_file("JSON, but not an object"));
    };
    let root = Section {
        path: String::new(),
        map: &map,
    };
    match map.get("model_type").and_then(Value::as_str) {
        Some("mimi") => return config_hf::read(&root),
        Some(other) if !map.contains_key("seanet") => {
            return Err(wrong_file(&format!("of model_type {other:?}")));
        }
        _ => {}
    }
    const LANGUAGE_MODEL: [&str; 6] = [
        "dep_q",
        "depformer_dim",
        "depformer_num_layers",
        "text_card",
        "moshi_name",
        "mimi_name",
    ];
    if let Some(key) = LANGUAGE_MODEL.iter().find(|key| map.contains_key(**key)) {
        return Err(wrong_file(&format!("a language model's (it has {key:?})")));
    }
    const KYUTAI: [&str; 5] = [
        "seanet",
        "transformer",
        "quantizer",
        "sample_rate",
        "frame_rate",
    ];
    const HF: [&str; 4] = [
        "upsampling_ratios",
        "num_filters",
        "num_quantizers",
        "codebook_size",
    ];
    if KYUTAI.iter().any(|key| map.contains_key(*key)) {
        kyutai(&root)
    } else if HF.iter().filter(|key| map.contains_key(**key)).count() >= 2 {
        config_hf::read(&root)
    } else {
        Err(wrong_file("JSON without any of Mimi's entries"))
    }
}

fn wrong_file(got: &str) -> Error {
    Error::Config {
        field: "(whole file)".into(),
        got: got.into(),
        wanted:
            "pass Mimi's own configuration: Kyutai's mimi_config JSON (the file that a model's \
                 config.json names in mimi_config_name), the config.json of kyutai/mimi, or none \
                 for the released model"
                .into(),
    }
}

/// Kyutai's `mimi_config` JSON.
fn kyutai(root: &Section<'_>) -> Result<MimiConfig> {
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

/// A JSON object and where it is, so that every complaint can name its entry.
pub(super) struct Section<'a> {
    path: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// A nested object; `None` if absent or null.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section {
                path: format!("{}{key}.", self.path),
                map,
            })),
            Some(_) => Err(self.error(key, "use an object")),
        }
    }

    /// The complaint about one entry.
    pub(super) fn error(&self, key: &str, wanted: &str) -> Error {
        // Shortened, since a hostile file may hold megabytes here.
        let mut got = self
            .map
            .get(key)
            .map_or_else(|| "missing".into(), Value::to_string);
        if let Some((cut, _)) = got.char_indices().nth(80) {
            got.truncate(cut);
            got.push_str("...");
        }
        Error::Config {
            field: format!("{}{key}", self.path),
            got,
            wanted: wanted.into(),
        }
    }

    /// Present and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A whole number that may be left out.
    pub(super) fn size(&self, key: &str, into: &mut usize) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = whole(value).ok_or_else(|| self.error(key, "use a whole number from 0"))?;
        }
        Ok(())
    }

    /// A whole number that may be left out but not be null, where null would mean "no limit".
    pub(super) fn required_size(&self, key: &str, into: &mut usize) -> Result<()> {
        if self.map.get(key).is_some_and(Value::is_null) {
            return Err(self.error(
                key,
                "streaming needs a limited attention window: use a number",
            ));
        }
        self.size(key, into)
    }

    /// A list of whole numbers that may be left out.
    pub(super) fn sizes(&self, key: &str, into: &mut Vec<usize>) -> Result<()> {
        if let Some(value) = self.get(key) {
            let list = value
                .as_array()
                .and_then(|list| list.iter().map(whole).collect());
            *into = list.ok_or_else(|| self.error(key, "use a list of whole numbers"))?;
        }
        Ok(())
    }

    /// A number that may be left out.
    pub(super) fn number(&self, key: &str, into: &mut f64) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = value
                .as_f64()
                .ok_or_else(|| self.error(key, "use a number"))?;
        }
        Ok(())
    }

    /// A truth value that may be left out.
    pub(super) fn flag(&self, key: &str, into: &mut bool) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = value
                .as_bool()
                .ok_or_else(|| self.error(key, "use true or false"))?;
        }
        Ok(())
    }

    /// `pad_mode`, which may be left out.
    pub(super) fn pad_mode(&self, replicate: &mut bool) -> Result<()> {
        match self.get("pad_mode").map(Value::as_str) {
            None => {}
            Some(Some("constant")) => *replicate = false,
            Some(Some("replicate")) => *replicate = true,
            Some(_) => {
                return Err(self.error("pad_mode", "use \"constant\" or \"replicate\""));
            }
        }
        Ok(())
    }

    /// An error if the entry is present, not null, and anything but `value`.
    pub(super) fn only(&self, key: &str, value: Value, wanted: &str) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(got) if *got == value => Ok(()),
            // 1 and 1.0 are the same entry written by two programs.
            Some(got) if got.as_f64().is_some() && got.as_f64() == value.as_f64() => Ok(()),
            Some(_) => Err(self.error(key, wanted)),
        }
    }
}

/// A non-negative whole number, also if written as `8.0`.
fn whole(value: &Value) -> Option<usize> {
    if let Some(n) = value.as_u64() {
        return usize::try_from(n).ok();
    }
    let n = value.as_f64()?;
    (n >= 0.0 && n.fract() == 0.0 && n <= f64::from(u32::MAX)).then_some(n as usize)
}

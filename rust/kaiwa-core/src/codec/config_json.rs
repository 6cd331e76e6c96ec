//! Configuration files: telling the schemas apart, and reading the one that is there.

use serde_json::Value;

use super::config::MimiConfig;
use super::config_section::Section;
use super::{config_hf, config_kyutai};
use crate::error::{Error, Result};

impl MimiConfig {
    /// Reads Kyutai's `mimi_config` JSON or the `config.json` of Hugging Face `transformers`
    /// (`model_type: "mimi"`), whichever the text is; checks every rule of [`Self::validate`].
    ///
    /// Entries that are missing take the released values, unknown extra entries are ignored.
    ///
    /// # Errors
    /// [`Error::Config`] naming the entry, its value and the rule.
    pub fn from_json(text: &str) -> Result<Self> {
        let config = read(text)?;
        config.validate()?;
        Ok(config)
    }
}

/// Reads either schema. Does not yet check that the widths fit together.
fn read(text: &str) -> Result<MimiConfig> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::Config {
        field: "(whole file)".into(),
        got: format!("not valid JSON ({e})"),
        wanted: "pass Mimi's configuration as JSON, or none for the released model".into(),
    })?;
    let Value::Object(map) = value else {
        return Err(wrong_file("JSON, but not an object"));
    };
    let root = Section::root(&map);
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
        config_kyutai::read(&root)
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

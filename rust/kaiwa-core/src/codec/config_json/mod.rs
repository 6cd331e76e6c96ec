//! Mimi's configuration from JSON, in either published schema.
//!
//! Entries that are not known are ignored, in both schemas: `transformers` writes dozens that
//! belong to every model, others with each version, and Kyutai's files may carry settings of
//! training (docs/spec/mimi.md 6). Entries that are known are read strictly.

mod hf;
mod kyutai;
mod values;

use serde_json::{Map, Value};

use super::config::MimiConfig;
use crate::error::{Error, Result};
use crate::json::{self, Size};

impl MimiConfig {
    /// Reads Kyutai's `mimi_config` JSON or the `config.json` of Hugging Face `transformers`
    /// (`model_type: "mimi"`), whichever the text is; checks every rule of [`Self::validate`].
    ///
    /// Entries that are missing take the released values, unknown extra entries are ignored.
    ///
    /// # Errors
    /// [`Error::Config`] naming the entry as the file calls it, its value and the rule.
    pub fn from_json(text: &str) -> Result<Self> {
        let map = json::object(text, MIMI_FILE)?;
        match schema(&map)? {
            Schema::Kyutai => {
                let config = kyutai::read(&map)?;
                config.validate()?;
                Ok(config)
            }
            Schema::Transformers => {
                let config = hf::read(&map)?;
                config.validate().map_err(hf::in_its_names)?;
                Ok(config)
            }
        }
    }
}

const MIMI_FILE: &str = "pass Mimi's own configuration: Kyutai's mimi_config JSON (the file that a \
                         model's config.json names in mimi_config_name), the config.json of \
                         kyutai/mimi, or none for the released model";

enum Schema {
    Kyutai,
    Transformers,
}

/// Which schema a file follows, by entries that only one of them has.
fn schema(map: &Map<String, Value>) -> Result<Schema> {
    let wrong_file = |got: String| Error::Config {
        field: "(whole file)".into(),
        got,
        wanted: MIMI_FILE.into(),
    };
    match map.get("model_type").and_then(Value::as_str) {
        Some("mimi") => return Ok(Schema::Transformers),
        Some(other) if !map.contains_key("seanet") => {
            let short: String = other.chars().take(80).collect();
            return Err(wrong_file(format!("of model_type {short:?}")));
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
        return Err(wrong_file(format!("a language model's (it has {key:?})")));
    }
    const KYUTAI: [&str; 5] = [
        "seanet",
        "transformer",
        "quantizer",
        "sample_rate",
        "frame_rate",
    ];
    const TRANSFORMERS: [&str; 4] = [
        "upsampling_ratios",
        "num_filters",
        "num_quantizers",
        "codebook_size",
    ];
    let has = |key: &&&str| map.contains_key(**key);
    if KYUTAI.iter().any(|key| has(&key)) {
        Ok(Schema::Kyutai)
    } else if TRANSFORMERS.iter().filter(has).count() >= 2 {
        Ok(Schema::Transformers)
    } else {
        Err(wrong_file("JSON without any of Mimi's entries".into()))
    }
}

/// Puts an entry that is there into its place.
fn set<T>(place: &mut T, entry: Option<impl Into<T>>) {
    if let Some(value) = entry {
        *place = value.into();
    }
}

/// The complaint about the entry at `path` unless it is left out or is `value`.
fn must_be(
    entry: Option<Size>,
    value: usize,
    map: &Map<String, Value>,
    path: &[&str],
    wanted: &str,
) -> Result<()> {
    match entry {
        Some(Size(got)) if got != value => Err(json::error(map, path, wanted)),
        _ => Ok(()),
    }
}

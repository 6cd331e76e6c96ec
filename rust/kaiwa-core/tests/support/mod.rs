//! Building weight files for tests: the golden file taken apart, changed, and put together.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::codec::MimiConfig;

/// A file of the golden case `mimi_small`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/mimi_small")
        .join(name)
}

/// The golden case's configuration.
pub fn golden_config() -> MimiConfig {
    let text = std::fs::read_to_string(golden("config.json")).unwrap();
    MimiConfig::from_json(&text).unwrap()
}

/// One tensor of a file to be written.
#[derive(Clone)]
pub struct Part {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Part {
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            name: name.into(),
            dtype: "F32".into(),
            shape: shape.into(),
            bytes,
        }
    }

    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        self.bytes
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

/// All tensors of the golden weights.
pub fn golden_parts() -> Vec<Part> {
    let file = SafeTensorsFile::open(&golden("mimi.safetensors")).unwrap();
    let parts: Vec<_> = file
        .tensors()
        .iter()
        .map(|t| Part {
            name: t.name.clone(),
            dtype: t.dtype.0.clone(),
            shape: t.shape.clone(),
            bytes: file.read_bytes(&t.name).unwrap(),
        })
        .collect();
    assert!(parts.len() > 100);
    parts
}

/// A file from its header text and data.
pub fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

/// A well-formed file of these tensors.
pub fn file_bytes(parts: &[Part]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for part in parts {
        let begin = data.len();
        data.extend_from_slice(&part.bytes);
        let entry = serde_json::json!({
            "dtype": part.dtype, "shape": part.shape, "data_offsets": [begin, data.len()],
        });
        assert!(
            header.insert(part.name.clone(), entry).is_none(),
            "{} twice",
            part.name
        );
    }
    raw_file(&serde_json::Value::Object(header).to_string(), &data)
}

/// The same, opened.
pub fn file(parts: &[Part]) -> SafeTensorsFile {
    SafeTensorsFile::from_bytes(Path::new("test.safetensors"), file_bytes(parts)).unwrap()
}

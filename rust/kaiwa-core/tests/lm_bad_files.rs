//! Damaged and foreign files of language models: clear errors, never a panic.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use kaiwa_core::checkpoint::GgufFile;
use kaiwa_core::lm::{LmCheckpoint, LmConfig, LmTensors};

fn data(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(case)
}

fn gguf(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::from_bytes(Path::new("test.gguf"), bytes).map_err(|e| e.to_string())
}

/// A header of version 2 with the given counts and the rest as it comes.
fn header(tensors: u64, values: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(2u32.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(values.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// One line of the tensor table.
fn entry(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend((dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn hostile_gguf_headers() {
    let alignment = |value: u32| {
        let mut bytes = 17u64.to_le_bytes().to_vec();
        bytes.extend(b"general.alignment");
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let two = [entry("a", &[32], 0, 0), entry("b", &[32], 0, 64)].concat();
    let twin = [entry("a", &[8], 0, 0), entry("a", &[8], 0, 32)].concat();
    let room = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len() + 4096, 0);
        bytes
    };
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", b"GGUF".to_vec()),
        ("does not begin", b"GGML\x02\0\0\0".to_vec()),
        (
            "version",
            [b"GGUF".to_vec(), 9u32.to_le_bytes().to_vec()].concat(),
        ),
        ("truncated", header(u64::MAX, 0, &[])),
        ("truncated", header(0, u64::MAX, &[])),
        ("bytes long", header(1, 0, &[0xff; 64])),
        ("axes", header(1, 0, &room(entry("a", &[1; 9], 0, 0)))),
        (
            "unknown block type",
            header(1, 0, &room(entry("a", &[32], 77, 0))),
        ),
        ("whole blocks", header(1, 0, &room(entry("a", &[31], 8, 0)))),
        (
            "whole blocks",
            header(1, 0, &room(entry("a", &[u64::MAX, 4], 0, 0))),
        ),
        ("aligned", header(1, 0, &room(entry("a", &[8], 0, 3)))),
        ("truncated", header(1, 0, &entry("a", &[1 << 40], 0, 0))),
        (
            "beyond",
            header(1, 0, &room(entry("a", &[], 0, u64::MAX - 31))),
        ),
        ("overlap", header(2, 0, &room(two))),
        ("twice", header(2, 0, &room(twin))),
        ("alignment", header(0, 1, &alignment(24))),
        ("alignment", header(0, 1, &alignment(0))),
        (
            "unknown type",
            header(
                0,
                1,
                &room([&1u64.to_le_bytes()[..], b"k", &99u32.to_le_bytes()].concat()),
            ),
        ),
    ];
    for (words, bytes) in table {
        let message = gguf(bytes)
            .err()
            .unwrap_or_else(|| panic!("{words}: accepted"));
        assert!(message.contains(words), "{words}: {message}");
    }
}

/// A cheap random number below `n`.
fn random(state: &mut u64, n: usize) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) as usize) % n
}

#[test]
fn changed_bytes_never_panic() {
    let good = std::fs::read(data("formats/candle_q8/model.q8.gguf")).unwrap();
    let mut state = 1;
    let mut refused = 0;
    for _ in 0..1500 {
        let mut bytes = good[..20_000].to_vec();
        for _ in 0..1 + random(&mut state, 4) {
            let at = random(&mut state, 12_000);
            bytes[at] = random(&mut state, 256) as u8;
        }
        bytes.truncate(random(&mut state, bytes.len()));
        refused += usize::from(gguf(bytes).is_err());
    }
    assert!(refused > 1000);
    let text = std::fs::read(data("hibiki_small/config.json")).unwrap();
    for _ in 0..20_000 {
        let mut bytes = text.clone();
        for _ in 0..1 + random(&mut state, 3) {
            let at = random(&mut state, bytes.len());
            bytes[at] = b" {}[]\",:-019.eNtrue"[random(&mut state, 19)];
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = LmConfig::from_json(text);
        }
    }
}

#[test]
fn impossible_configurations() {
    let good = std::fs::read_to_string(data("hibiki_small/config.json")).unwrap();
    assert!(LmConfig::from_json(&good).is_ok());
    for (old, new, field) in [
        ("\"dim\": 64", "\"dim\": 0", "dim"),
        ("\"dim\": 64", "\"dim\": -4", "dim"),
        ("\"dim\": 64", "\"dim\": 1e300", "dim"),
        ("\"num_heads\": 4", "\"num_heads\": 3", "num_heads"),
        ("\"num_layers\": 3", "\"num_layers\": null", "num_layers"),
        ("\"context\": 12", "\"context\": null", "context"),
        ("\"n_q\": 16", "\"n_q\": 15", "delays"),
        ("\"dep_q\": 8", "\"dep_q\": 17", "schedule"),
        ("\"gating\": \"silu\"", "\"gating\": \"relu\"", "gating"),
        ("\"norm\": \"rms_norm_f32\"", "\"norm\": 3", "norm"),
        (
            "\"positional_embedding\": \"rope\"",
            "\"positional_embedding\": \"sin\"",
            "positional",
        ),
        (
            "\"depformer_pos_emb\": \"none\"",
            "\"depformer_pos_emb\": \"sin\"",
            "depformer_pos_emb",
        ),
        ("\"causal\": true", "\"causal\": false", "causal"),
        (
            "\"causal\": true",
            "\"cross_attention\": true",
            "cross_attention",
        ),
        ("\"causal\": true", "\"colour\": \"red\"", "colour"),
        (
            "\"model_type\": \"moshi\"",
            "\"model_type\": \"tts\"",
            "model_type",
        ),
        (
            "\"hidden_scale\": 1.5",
            "\"hidden_scale\": 0",
            "hidden_scale",
        ),
        (
            "\"max_period\": 10000",
            "\"max_period\": \"long\"",
            "max_period",
        ),
    ] {
        assert!(good.contains(old), "{old}");
        let message = LmConfig::from_json(&good.replacen(old, new, 1))
            .err()
            .unwrap_or_else(|| panic!("{new}: accepted"))
            .to_string();
        assert!(message.contains(field), "{new}: {message}");
    }
    for text in ["", "[]", "{", "{\"seanet\": {}}"] {
        assert!(LmConfig::from_json(text).is_err());
    }
}

#[test]
fn scales_that_are_no_numbers() {
    let case = data("formats/pytorch_int8");
    let config = std::fs::read_to_string(case.join("config.json")).unwrap();
    let bytes = std::fs::read(case.join("model.q8.safetensors")).unwrap();
    let folder = std::env::temp_dir().join(format!("kaiwa-scales-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let begin = json["text_linear.weight_scb"]["data_offsets"][0]
        .as_u64()
        .unwrap() as usize;
    for value in [f32::NAN, -1.0, f32::INFINITY] {
        let mut bad = bytes.clone();
        bad[8 + length + begin..][..4].copy_from_slice(&value.to_le_bytes());
        let path = folder.join("model.safetensors");
        std::fs::write(&path, bad).unwrap();
        let file = LmCheckpoint::open(&[path], Some(&config)).unwrap();
        let info = file.info("text_linear.weight").unwrap();
        let mut out = vec![0f32; info.rows * info.cols];
        let error = file.read_f32("text_linear.weight", 0..info.rows, &mut out);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("text_linear.weight_scb")
        );
    }
    // The same tensors twice, in two shards.
    let path = case.join("model.q8.safetensors");
    let twice = LmCheckpoint::open(&[path.clone(), path], Some(&config));
    assert!(twice.err().unwrap().to_string().contains("leave out one"));
    std::fs::remove_dir_all(&folder).unwrap();
}

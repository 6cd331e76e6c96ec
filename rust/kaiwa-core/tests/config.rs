//! Reading Mimi's configuration in both schemas, and refusing what would run wrongly.
#![allow(clippy::unwrap_used)]

mod support;

use kaiwa_core::Error;
use kaiwa_core::codec::MimiConfig;
use serde_json::{Value, json};

/// What `transformers` 4.46 writes for the released model, shortened to the entries that matter.
fn transformers_4() -> Value {
    json!({
        "architectures": ["MimiModel"], "model_type": "mimi", "sampling_rate": 24000,
        "audio_channels": 1, "hidden_size": 512, "num_filters": 64, "num_residual_layers": 1,
        "upsampling_ratios": [8, 6, 5, 4], "kernel_size": 7, "last_kernel_size": 3,
        "residual_kernel_size": 3, "dilation_growth_rate": 2, "compress": 2,
        "use_causal_conv": true, "use_conv_shortcut": false, "pad_mode": "constant",
        "trim_right_ratio": 1.0, "codebook_size": 2048, "codebook_dim": 256,
        "vector_quantization_hidden_dimension": 256, "num_quantizers": 32,
        "num_semantic_quantizers": 1, "upsample_groups": 512, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 2048, "hidden_act": "gelu", "norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": 250, "layer_scale_initial_scale": 0.01,
        "frame_rate": 12.5, "initializer_range": 0.02, "attention_bias": false
    })
}

/// The same as version 5 writes it.
fn transformers_5() -> Value {
    let mut value = transformers_4();
    let map = value.as_object_mut().unwrap();
    let rate = map.remove("frame_rate").unwrap();
    map.insert("_frame_rate".into(), rate);
    map.remove("rope_theta");
    map.insert(
        "rope_parameters".into(),
        json!({"rope_type": "default", "rope_theta": 10000.0}),
    );
    value
}

fn kyutai() -> Value {
    let text = std::fs::read_to_string(support::golden("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `base` with one entry, named with dots, set.
fn with(base: &Value, path: &str, value: Value) -> String {
    let mut out = base.clone();
    let pointer = format!("/{}", path.replace('.', "/"));
    match out.pointer_mut(&pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = out.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.insert(key.into(), value);
        }
    }
    out.to_string()
}

fn refused(text: &str, names: &str) -> String {
    match MimiConfig::from_json(text) {
        Err(error @ Error::Config { .. }) => {
            let message = error.to_string();
            assert!(
                message.contains(names),
                "{message:?} does not name {names:?}"
            );
            message
        }
        other => panic!("{text} gave {other:?}"),
    }
}

#[test]
fn golden_configuration() {
    let config = support::golden_config();
    assert_eq!(
        (config.hop(), config.frame_size(), config.steps_per_frame()),
        (960, 1920, 2)
    );
    assert_eq!((config.seanet.n_filters, config.seanet.dimension), (4, 32));
    assert_eq!(
        (config.transformer.num_heads, config.transformer.context),
        (4, 16)
    );
    assert_eq!(config.transformer.head_dim(), 8);
    assert_eq!((config.quantizer.n_q, config.quantizer.bins), (12, 64));
    assert!(!config.transformer.has_io_proj());
}

#[test]
fn released_constants() {
    let default = MimiConfig::default();
    default.validate().unwrap();
    for value in [
        transformers_4(),
        transformers_5(),
        json!({"model_type": "mimi"}),
        json!({"num_quantizers": 32, "codebook_size": 2048}),
        json!({"sample_rate": 24000}),
        json!({"seanet": {}, "transformer": {"layer_scale": 0.5}, "quantizer": null, "new": 1}),
    ] {
        assert_eq!(
            MimiConfig::from_json(&value.to_string()).unwrap(),
            default,
            "{value}"
        );
    }
}

#[test]
fn every_entry_of_both_schemas_is_read() {
    // A changed entry must give another configuration or be refused; none may be ignored.
    let unchanged = |text: &str, base: &MimiConfig| {
        MimiConfig::from_json(text).is_ok_and(|config| config == *base)
    };
    let base = support::golden_config();
    let mut seen = 0;
    for section in ["", "seanet", "transformer", "quantizer"] {
        let value = kyutai();
        let map = if section.is_empty() {
            &value
        } else {
            &value[section]
        };
        for (key, old) in map.as_object().unwrap() {
            let new = match old {
                Value::Object(_) => continue,
                Value::Bool(b) => json!(!b),
                Value::Number(n) if key == "layer_scale" => {
                    assert!(n.is_f64());
                    Value::Null
                }
                Value::Number(n) => json!(n.as_f64().unwrap() * 2.0),
                Value::String(_) => json!("other"),
                _ => json!([3, 5]),
            };
            // Twice nothing is nothing.
            let new = if key == "disable_norm_outer_blocks" {
                json!(1)
            } else {
                new
            };
            let path = format!("{section}.{key}")
                .trim_start_matches('.')
                .to_owned();
            assert!(
                !unchanged(&with(&value, &path, new), &base),
                "{path} is ignored"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 38);
    let ignored = [
        "architectures",
        "initializer_range",
        "layer_scale_initial_scale",
    ];
    for value in [transformers_4(), transformers_5()] {
        for (key, old) in value.as_object().unwrap() {
            let new = match old {
                Value::Bool(b) => json!(!b),
                Value::Number(n) => json!(n.as_f64().unwrap() * 2.0),
                Value::String(_) => json!("other"),
                Value::Object(_) => json!({"rope_type": "yarn"}),
                _ => json!([3, 5]),
            };
            let same = unchanged(&with(&value, key, new), &MimiConfig::default());
            assert_eq!(same, ignored.contains(&key.as_str()), "{key}");
        }
    }
}

/// `base` with entries of one object added.
fn extended(base: &Value, path: &str, entries: Value) -> Value {
    let mut out = base.clone();
    let into = out.pointer_mut(path).unwrap().as_object_mut().unwrap();
    for (key, value) in entries.as_object().unwrap() {
        into.insert(key.clone(), value.clone());
    }
    out
}

#[test]
fn entries_that_are_not_mimis_are_ignored() {
    // What `transformers` writes for every model, whatever the version, beside Mimi's own.
    let everyones = json!({
        "_name_or_path": "kyutai/mimi", "torch_dtype": "float32", "dtype": "float32",
        "transformers_version": "5.23.0", "is_encoder_decoder": false, "use_cache": false,
        "use_streaming": false, "max_position_embeddings": 8000, "output_attentions": false,
        "return_dict": true, "chunk_size_feed_forward": 0, "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0}, "problem_type": null, "pad_token_id": null,
        "tie_word_embeddings": true, "layer_types": ["sliding_attention"]
    });
    for base in [transformers_4(), transformers_5()] {
        let file = extended(&base, "", everyones.clone());
        let read = MimiConfig::from_json(&file.to_string()).unwrap();
        assert_eq!(read, MimiConfig::default());
    }
    let base = support::golden_config();
    let training = json!({"decay": 0.99, "q_dropout": true, "notes": {"by": "somebody"}});
    for path in ["", "/seanet", "/transformer", "/quantizer"] {
        let file = extended(&kyutai(), path, training.clone());
        assert_eq!(
            MimiConfig::from_json(&file.to_string()).unwrap(),
            base,
            "{path}"
        );
    }
}

#[test]
fn an_error_in_a_file_of_transformers_speaks_of_its_entries() {
    let base = transformers_5();
    for (path, value, wanted) in [
        ("hidden_size", json!("512"), "use a whole number"),
        ("hidden_size", json!(null), ""),
        ("hidden_size", json!(0), "must equal hidden_size"),
        ("num_filters", json!(0), "num_filters is 0; use 1 to 16384"),
        (
            "num_filters",
            json!(7),
            "compress is 2; it must divide num_filters, 7",
        ),
        (
            "num_attention_heads",
            json!(0),
            "it must equal num_attention_heads",
        ),
        (
            "num_key_value_heads",
            json!(4),
            "it must equal num_attention_heads",
        ),
        (
            "upsampling_ratios",
            json!([7, 6, 5, 4]),
            "upsampling_ratios is [7, 6, 5, 4]",
        ),
        (
            "upsampling_ratios",
            json!("8654"),
            "use a list of whole numbers",
        ),
        (
            "sampling_rate",
            json!(24_001),
            "frame_rate is 12.5; sampling_rate / frame_rate must",
        ),
        ("sliding_window", json!(null), "limited attention window"),
        (
            "sliding_window",
            json!(1),
            "sliding_window is 1; it must hold a frame",
        ),
        ("codebook_size", json!(1), "codebook_size is 1; use 2 to"),
        (
            "num_quantizers",
            json!(257),
            "num_quantizers is 257; use 1 to 256",
        ),
        (
            "norm_eps",
            json!(2.0),
            "norm_eps is 2; use a small positive number",
        ),
        (
            "rope_parameters.rope_theta",
            json!(-1),
            "rope_parameters.rope_theta is -1",
        ),
        (
            "rope_parameters.rope_theta",
            json!(0.5),
            "rope_theta is 0.5",
        ),
        (
            "rope_parameters.rope_type",
            json!("yarn"),
            "rope_parameters.rope_type",
        ),
        ("rope_parameters", json!([10_000.0]), "rope_parameters"),
        ("use_conv_shortcut", json!(0), "use true or false"),
        (
            "pad_mode",
            json!("reflect"),
            "use \"constant\" or \"replicate\"",
        ),
        ("hidden_act", json!("silu"), "only \"gelu\""),
    ] {
        let text = with(&base, path, value.clone());
        if wanted.is_empty() {
            assert_eq!(MimiConfig::from_json(&text).unwrap(), MimiConfig::default());
            continue;
        }
        let message = refused(&text, wanted);
        assert!(
            !message.contains("seanet") && !message.contains("transformer."),
            "{message}"
        );
    }
}

#[test]
fn unsupported_modes_are_named() {
    let base = kyutai();
    for (path, value) in [
        ("channels", json!(2)),
        ("causal", json!(false)),
        ("seanet.causal", json!(false)),
        ("seanet.activation", json!("GELU")),
        ("seanet.norm", json!("weight_norm")),
        ("seanet.pad_mode", json!("reflect")),
        ("seanet.disable_norm_outer_blocks", json!(1)),
        ("seanet.lstm", json!(2)),
        ("transformer.causal", json!(false)),
        ("transformer.context", json!(null)),
        ("transformer.conv_layout", json!(false)),
        ("transformer.gating", json!("silu")),
        ("transformer.norm", json!("rms_norm")),
        ("transformer.positional_embedding", json!("sin")),
        ("transformer.cross_attention", json!(true)),
        ("transformer.layer_scale", json!("yes")),
        ("transformer.output_dimensions", json!([32, 32])),
        ("transformer.input_dimension", json!(64)),
        ("quantizer.input_dimension", json!(64)),
        ("quantizer.output_dimension", json!(16)),
        ("seanet", json!([])),
        ("transformer.num_heads", json!("four")),
    ] {
        let message = refused(&with(&base, path, value), path.rsplit('.').next().unwrap());
        assert!(
            message.contains(path) || path.contains("dimension"),
            "{message}"
        );
    }
}

#[test]
fn widths_that_do_not_fit_together() {
    let base = kyutai();
    for (path, value) in [
        ("sample_rate", json!(0)),
        ("sample_rate", json!(u64::MAX)),
        ("frame_rate", json!(0.0)),
        ("frame_rate", json!(-12.5)),
        ("frame_rate", json!(1e300)),
        ("frame_rate", json!(1e-300)),
        ("frame_rate", json!(7.0)),
        ("seanet.ratios", json!([])),
        ("seanet.ratios", json!([0, 6, 5, 4])),
        ("seanet.ratios", json!([7, 6, 5, 4])),
        ("seanet.ratios", json!([8, 8, 6, 5])),
        (
            "seanet.ratios",
            json!([256, 256, 256, 256, 256, 256, 256, 256]),
        ),
        ("seanet.ratios", json!([-8])),
        ("seanet.compress", json!(0)),
        ("seanet.compress", json!(3)),
        ("seanet.n_filters", json!(1u64 << 40)),
        ("seanet.n_filters", json!(16_384)),
        ("seanet.dimension", json!(0)),
        ("seanet.kernel_size", json!(0)),
        ("seanet.dilation_base", json!(1u64 << 30)),
        ("transformer.d_model", json!(0)),
        ("transformer.num_heads", json!(0)),
        ("transformer.num_heads", json!(3)),
        ("transformer.num_heads", json!(32)),
        ("transformer.num_layers", json!(0)),
        ("transformer.num_layers", json!(1u64 << 60)),
        ("transformer.context", json!(1)),
        ("transformer.context", json!(1u64 << 50)),
        ("transformer.max_period", json!(0)),
        ("transformer.dim_feedforward", json!(0)),
        ("quantizer.dimension", json!(0)),
        ("quantizer.n_q", json!(0)),
        ("quantizer.n_q", json!(1u64 << 20)),
        ("quantizer.bins", json!(1)),
        ("quantizer.bins", json!(1u64 << 33)),
        ("quantizer.bins", json!(63.5)),
    ] {
        let name = match path {
            // Found through an entry that must agree with it.
            "seanet.dimension" => "input_dimension is 32; it must equal seanet.dimension",
            _ => path.rsplit('.').next().unwrap(),
        };
        refused(&with(&base, path, value), name);
    }
    // Each width is allowed, their product is not.
    let mut config = MimiConfig::default();
    config.transformer.context = 1 << 20;
    assert!(
        config
            .validate()
            .unwrap_err()
            .to_string()
            .contains("at most 1 GiB")
    );
    let mut config = MimiConfig::default();
    config.seanet.n_residual_layers = 16;
    assert!(config.validate().unwrap_err().to_string().contains("dilat"));
}

#[test]
fn files_that_are_no_mimi_configuration() {
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "{\"sample_rate\": }",
        "{\"unrelated\": 1}",
        "{\"model_type\": \"encodec\"}",
        "{\"dim\": 4096, \"text_card\": 32000, \"dep_q\": 8}",
        "{\"model_type\": \"moshi\", \"mimi_name\": \"tokenizer.safetensors\"}",
        "{\"mimi_name\": \"tokenizer.safetensors\", \"mimi_config_name\": \"mimi.json\"}",
    ] {
        let message = refused(text, "(whole file)");
        assert!(message.contains("pass Mimi's"), "{message}");
    }
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&nested, "not valid JSON");
    let long = format!("{{\"sample_rate\": \"{}\"}}", "é".repeat(1_000_000));
    assert!(refused(&long, "sample_rate").len() < 400);
}

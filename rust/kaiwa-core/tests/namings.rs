//! Every way of naming and storing Mimi's tensors gives the same numbers.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::codec::{MimiConfig, MimiTensors};
use support::{Part, file, file_bytes, golden, golden_config, golden_parts};

/// Released names and values of everything but the training flags.
fn reference() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let parts = golden_parts()
        .into_iter()
        .filter(|p| !p.name.ends_with("_initialized"));
    parts
        .map(|p| (p.name.clone(), p.shape.clone(), p.values()))
        .collect()
}

/// Reads everything through [`MimiTensors`] and compares with the golden file.
fn check(parts: &[Part], tolerance: f32) {
    let mut tensors = MimiTensors::from_file(file(parts), &golden_config()).unwrap();
    let mut worst = 0.0f32;
    for (name, shape, wanted) in reference() {
        let got = tensors.take(&name, &shape).unwrap();
        assert_eq!(got.len(), wanted.len(), "{name}");
        for (a, b) in got.iter().zip(&wanted) {
            worst = worst.max((a - b).abs() / b.abs().max(1e-3));
        }
    }
    tensors.finish().unwrap();
    assert!(worst <= tolerance, "largest relative difference {worst}");
}

/// Renames by suffix or substring; asserts that something was renamed.
fn renamed(changes: &[(&str, &str)]) -> Vec<Part> {
    let mut parts = golden_parts();
    let mut count = 0;
    for part in &mut parts {
        for (from, to) in changes {
            if part.name.contains(from) {
                part.name = part.name.replace(from, to);
                count += 1;
            }
        }
    }
    assert!(count >= changes.len(), "nothing was renamed");
    parts
}

#[test]
fn released_names() {
    check(&golden_parts(), 0.0);
}

#[test]
fn current_attention_names() {
    check(
        &renamed(&[
            ("self_attn.in_proj_weight", "self_attn.in_projs.0.weight"),
            ("self_attn.out_proj.weight", "self_attn.out_projs.0.weight"),
        ]),
        0.0,
    );
}

#[test]
fn dotted_attention_name() {
    check(
        &renamed(&[("self_attn.in_proj_weight", "self_attn.in_proj.weight")]),
        0.0,
    );
}

#[test]
fn old_codebook_names() {
    for sum in ["embed_avg", "embed_sum"] {
        check(
            &renamed(&[
                ("_codebook._initialized", "_codebook.inited"),
                ("_codebook.cluster_usage", "_codebook.cluster_size"),
                ("_codebook.embedding_sum", &format!("_codebook.{sum}")),
            ]),
            0.0,
        );
    }
}

#[test]
fn training_flags_are_optional() {
    let mut parts = golden_parts();
    parts.retain(|p| !p.name.ends_with("_initialized"));
    check(&parts, 0.0);
}

#[test]
fn norm_weights_named_alpha() {
    let mut parts = golden_parts();
    let mut count = 0;
    for part in &mut parts {
        if part.name.ends_with("norm1.weight") || part.name.ends_with("norm2.weight") {
            part.name = part.name.replace(".weight", ".alpha");
            part.shape = vec![1, 1, part.shape[0]];
            count += 1;
        }
    }
    assert_eq!(count, 8);
    check(&parts, 0.0);
}

#[test]
fn half_precision_files() {
    // The golden values are not representable, so the tolerance is that of the type.
    for (dtype, tolerance) in [("F16", 6e-2), ("BF16", 4e-3)] {
        let mut parts = golden_parts();
        for part in &mut parts {
            let values = part.values().into_iter();
            part.bytes = match dtype {
                "F16" => values
                    .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
                    .collect(),
                _ => values
                    .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
                    .collect(),
            };
            part.dtype = dtype.into();
        }
        check(&parts, tolerance);
    }
}

/// Splits SEANet weights into magnitude and direction, the direction scaled at random.
#[test]
fn unfolded_weight_norm() {
    for (g_name, v_name) in [
        ("weight_g", "weight_v"),
        (
            "parametrizations.weight.original0",
            "parametrizations.weight.original1",
        ),
    ] {
        let mut parts = Vec::new();
        let mut count = 0;
        for part in golden_parts() {
            let seanet = part.name.contains("coder.model.") && part.name.ends_with(".weight");
            if !seanet {
                parts.push(part);
                continue;
            }
            count += 1;
            let stem = part.name.strip_suffix("weight").unwrap();
            let values = part.values();
            let rows = part.shape[0];
            let row = values.len() / rows;
            let (mut g, mut v) = (Vec::new(), Vec::new());
            for (i, w) in values.chunks(row).enumerate() {
                let norm = w.iter().map(|x| x * x).sum::<f32>().sqrt();
                g.push(norm);
                v.extend(w.iter().map(|x| x * (0.5 + i as f32)));
            }
            parts.push(Part::f32(&format!("{stem}{g_name}"), &[rows, 1, 1], &g));
            parts.push(Part::f32(&format!("{stem}{v_name}"), &part.shape, &v));
        }
        assert_eq!(count, 28);
        check(&parts, 1e-5);
    }
}

/// The golden file as `transformers` would write it (version 4 and 5 write the same names), or
/// as version 5 holds it in memory.
fn transformers_parts(in_memory: bool) -> Vec<Part> {
    let mut out = Vec::new();
    for mut part in golden_parts() {
        let mut name = part.name.clone();
        for (from, to) in [
            ("downsample.conv.conv.conv", "downsample.conv"),
            ("upsample.convtr.convtr.convtr", "upsample.conv"),
            (".convtr.convtr.", ".conv."),
            (".conv.conv.", ".conv."),
            ("coder.model.", "coder.layers."),
            ("_transformer.transformer.layers", "_transformer.layers"),
            ("out_proj.weight", "o_proj.weight"),
            ("norm1", "input_layernorm"),
            ("norm2", "post_attention_layernorm"),
            ("linear1", "mlp.fc1"),
            ("linear2", "mlp.fc2"),
            ("layer_scale_1", "self_attn_layer_scale"),
            ("layer_scale_2", "mlp_layer_scale"),
            ("rvq_first", "semantic_residual_vector_quantizer"),
            ("rvq_rest", "acoustic_residual_vector_quantizer"),
            ("vq.layers.", "layers."),
            ("_codebook._initialized", "codebook.initialized"),
            ("_codebook.cluster_usage", "codebook.cluster_usage"),
            ("_codebook.embedding_sum", "codebook.embed_sum"),
        ] {
            // The quantiser's projections keep their name.
            if !(from == "out_proj.weight" && name.contains("quantizer")) {
                name = name.replace(from, to);
            }
        }
        if in_memory {
            for (from, to) in [
                ("encoder.layers", "encoder.encoder_seanet.layers"),
                ("decoder.layers", "decoder.decoder_seanet.layers"),
                ("encoder_transformer", "encoder.encoder_transformer"),
                ("decoder_transformer", "decoder.decoder_transformer"),
                ("downsample", "encoder.downsample"),
                ("upsample", "decoder.upsample"),
            ] {
                if name.starts_with(from) {
                    name = name.replacen(from, to, 1);
                }
            }
        }
        if let Some(stem) = name.strip_suffix("in_proj_weight") {
            let width = part.shape[1];
            for (n, block) in part.values().chunks(width * width).enumerate() {
                let letter = ["q", "k", "v"][n];
                // hf[i] = kyutai[2i], hf[half + i] = kyutai[2i + 1] inside each head of 8 rows.
                let rows: Vec<&[f32]> = block.chunks(width).collect();
                let mut values = Vec::new();
                for head in rows.chunks(8) {
                    let order: Vec<usize> = match letter {
                        "v" => (0..8).collect(),
                        _ => (0..8)
                            .map(|i| if i < 4 { 2 * i } else { 2 * (i - 4) + 1 })
                            .collect(),
                    };
                    order
                        .iter()
                        .for_each(|i| values.extend_from_slice(head[*i]));
                }
                out.push(Part::f32(
                    &format!("{stem}{letter}_proj.weight"),
                    &[width, width],
                    &values,
                ));
            }
            continue;
        }
        part.name = name;
        out.push(part);
    }
    out
}

#[test]
fn transformers_names_and_row_order() {
    for in_memory in [false, true] {
        let parts = transformers_parts(in_memory);
        assert_eq!(parts.len(), golden_parts().len() + 8);
        assert!(parts.iter().all(|p| !p.name.contains("rvq")));
        check(&parts, 0.0);
    }
}

#[test]
fn input_and_output_projections() {
    let mut config = golden_config();
    config.transformer.d_model = 16;
    assert!(config.transformer.has_io_proj());
    let mut parts = golden_parts();
    for part in &mut parts {
        if part.name.contains("_transformer.") {
            let rows = |n: usize| {
                if n == 32 {
                    16
                } else if n == 96 {
                    48
                } else {
                    n
                }
            };
            part.shape = part.shape.iter().map(|n| rows(*n)).collect();
            part.bytes
                .truncate(4 * part.shape.iter().product::<usize>());
        }
    }
    for side in ["encoder", "decoder"] {
        let values: Vec<f32> = (0..512).map(|i| i as f32).collect();
        let name = format!("{side}_transformer.input_proj.weight");
        parts.push(Part::f32(&name, &[16, 32], &values));
        let name = format!("{side}_transformer.output_projs.0.weight");
        parts.push(Part::f32(&name, &[32, 16], &values));
    }
    let mut tensors = MimiTensors::from_file(file(&parts), &config).unwrap();
    let taken = tensors
        .take("encoder_transformer.input_proj.weight", &[16, 32])
        .unwrap();
    assert_eq!(taken[511], 511.0);
    tensors
        .take("decoder_transformer.output_projs.0.weight", &[32, 16])
        .unwrap();
}

#[test]
fn released_model_has_318_tensors_and_the_published_length() {
    // 318 with the 32 training flags; the element count is that of docs/spec/mimi.md 1.2.
    let config = MimiConfig::default();
    let error = MimiTensors::from_file(file(&[]), &config)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("missing 286 ("), "{error}");
}

#[test]
fn counts_codebooks_and_summarises() {
    assert_eq!(
        MimiTensors::count_codebooks(&golden("mimi.safetensors")).unwrap(),
        12
    );
    let opened = SafeTensorsFile::open(&golden("mimi.safetensors")).unwrap();
    let summary = opened.summary();
    assert_eq!(summary.tensors.len(), golden_parts().len());
    assert_eq!(
        summary.file_bytes,
        std::fs::metadata(golden("mimi.safetensors")).unwrap().len()
    );
    assert_eq!(summary.tensor_bytes, 4 * summary.parameters);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([64]));
    let bytes = file_bytes(&golden_parts());
    let copy = SafeTensorsFile::from_bytes(Path::new("copy"), bytes).unwrap();
    assert_eq!(copy.summary().tensors.len(), summary.tensors.len());
}

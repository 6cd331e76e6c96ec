//! The language model against the reference's outputs, for every published file format.
#![allow(clippy::unwrap_used, missing_docs)]

use std::ops::ControlFlow;
use std::path::PathBuf;

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::formats::{KvFormat, WeightFormat};
use kaiwa_core::lm::{LmCheckpoint, Moshi, MoshiOptions, MoshiStream, Sampling, StepInput};

const GREEDY: Sampling = Sampling {
    temp: 0.0,
    temp_text: 0.0,
    top_k: 250,
    top_k_text: 25,
};

const EXACT: MoshiOptions = MoshiOptions {
    device: kaiwa_core::device::Device::Cpu,
    weights: Some(WeightFormat::F32),
    kv: None,
};

const AS_FILE: MoshiOptions = MoshiOptions {
    weights: None,
    ..EXACT
};

/// Folder and weight file of every format.
const FORMATS: [(&str, &str); 7] = [
    ("pytorch_bf16", "model.safetensors"),
    ("pytorch_int8", "model.q8.safetensors"),
    ("candle_bf16", "model.safetensors"),
    ("candle_q8", "model.q8.gguf"),
    ("mlx_bf16", "model.safetensors"),
    ("mlx_q8", "model.q8.safetensors"),
    ("mlx_q4", "model.q4.safetensors"),
];

fn data(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(case)
}

fn open(case: &str, file: &str) -> LmCheckpoint {
    let config = std::fs::read_to_string(data(case).join("config.json")).unwrap();
    LmCheckpoint::open(&[data(case).join(file)], Some(&config)).unwrap()
}

fn load(checkpoint: &LmCheckpoint, options: &MoshiOptions) -> Moshi {
    Moshi::load(checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

struct Expected(SafeTensorsFile);

impl Expected {
    fn of(case: &str) -> Self {
        Self(SafeTensorsFile::open(&data(case).join("expected.safetensors")).unwrap())
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        let bytes = self.0.read_bytes(name).unwrap();
        match self.0.tensor(name).unwrap().dtype.0.as_str() {
            "I32" => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b))
                .collect(),
            "I64" => bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b) as i32)
                .collect(),
            other => panic!("{other}"),
        }
    }

    /// `[rows, columns]` as columns.
    fn columns(&self, name: &str) -> Vec<Vec<i32>> {
        let (all, width) = (self.ints(name), self.0.tensor(name).unwrap().shape[1]);
        (0..width)
            .map(|c| all.iter().skip(c).step_by(width).copied().collect())
            .collect()
    }
}

fn step(
    stream: &mut MoshiStream,
    codes: &[i32],
    forced: Option<(i32, &[i32])>,
) -> Option<Vec<i32>> {
    let text: Vec<i32> = forced.iter().map(|(t, _)| *t).collect();
    let out = stream
        .step(StepInput {
            slots: &[0],
            user_codes: codes,
            codebooks: codes.len(),
            force_text: &text,
            force_audio: forced.map_or(&[], |(_, a)| a),
        })
        .unwrap();
    let frame = out.text.iter().chain(&out.audio).copied();
    out.ready[0].then(|| frame.collect())
}

/// Runs a case: every token and returned column must be equal; gives the largest difference of
/// any logit. `led` forces the reference's tokens, so that logits compare step by step.
fn compare(case: &str, moshi: &Moshi, prefix: &str, led: bool) -> f32 {
    compare_some(case, moshi, prefix, led, usize::MAX)
}

/// [`compare`] of the first `most` steps.
fn compare_some(case: &str, moshi: &Moshi, prefix: &str, led: bool, most: usize) -> f32 {
    let expected = Expected::of(case);
    let text = expected.ints(&format!("{prefix}step_text_tokens"));
    let audio = expected.ints(&format!("{prefix}step_audio_tokens"));
    let logits = |name: &str| {
        expected
            .0
            .read_f32(&format!("{prefix}{name}_logits"))
            .unwrap()
    };
    let (text_logits, audio_logits) = (logits("text"), logits("audio"));
    let books = moshi.config().spoken;
    let mut stream = moshi.stream(&[1], &[GREEDY]).unwrap();
    let (mut worst, mut frames) = (0f32, vec![]);
    let users = expected.columns("user_codes");
    assert_eq!(users.len(), text.len());
    for (s, user) in users.iter().enumerate().take(most) {
        let chosen = &audio[s * books..][..books];
        let frame = step(&mut stream, user, led.then_some((text[s], chosen)));
        frames.extend(frame);
        let mut far = |made: &[f32], wanted: &[f32]| {
            let wanted = &wanted[s * made.len()..][..made.len()];
            for (a, b) in made.iter().zip(wanted) {
                worst = worst.max((a - b).abs());
            }
        };
        let made = stream.logits().unwrap();
        far(&made.text, &text_logits);
        far(&made.audio, &audio_logits);
    }
    let wanted = expected.columns(&format!("{prefix}out_tokens"));
    assert!(most < users.len() || frames.len() == wanted.len());
    assert_eq!(frames, wanted[..frames.len()], "{case}");
    worst
}

#[test]
fn reference_cases_are_exact() {
    // The ring wraps six times in the first, the second has a schedule and low-rank tables.
    for case in ["moshi_small", "hibiki_small"] {
        let moshi = load(&open(case, "model.safetensors"), &EXACT);
        let worst = compare(case, &moshi, "", false);
        assert!(worst < 2e-4, "{case}: {worst}");
    }
}

#[test]
fn an_adapter_is_merged() {
    let case = "moshi_small_lora";
    let config = std::fs::read_to_string(data(case).join("config.json")).unwrap();
    let plain = open(case, "model.safetensors");
    assert_eq!(plain.warnings().len(), 1, "lora without an adapter's name");
    let merged = plain
        .with_lora(&data(case).join("lora.safetensors"), Some(&config))
        .unwrap();
    assert!(merged.warnings().is_empty(), "{:?}", merged.warnings());
    let worst = compare(case, &load(&merged, &EXACT), "", false);
    assert!(worst < 2e-4, "{worst}");
    // The control: without it the tokens are others.
    let base = load(&open(case, "model.safetensors"), &EXACT);
    let expected = Expected::of(case);
    let mut stream = base.stream(&[1], &[GREEDY]).unwrap();
    let users = expected.columns("user_codes");
    let frames: Vec<_> = users
        .iter()
        .filter_map(|u| step(&mut stream, u, None))
        .collect();
    assert_ne!(frames, expected.columns("out_tokens"));
}

#[test]
fn every_format_dequantised_is_exact() {
    for (folder, file) in FORMATS {
        let case = format!("formats/{folder}");
        let moshi = load(&open(&case, file), &EXACT);
        let prefix = match folder {
            "pytorch_bf16" => "",
            _ => "dequant_",
        };
        let worst = compare(&case, &moshi, prefix, false);
        assert!(worst < 2e-4, "{case}: {worst}");
        // A long run whose tokens leave the path if values are only nearly right.
        let expected = Expected::of(&case);
        let mut stream = moshi.stream(&[1], &[GREEDY]).unwrap();
        let users = expected.columns("sharp_user_codes");
        let frames: Vec<_> = users
            .iter()
            .filter_map(|u| step(&mut stream, u, None))
            .collect();
        assert_eq!(frames, expected.columns("sharp_out_tokens"), "{case}");
    }
}

#[test]
fn every_format_as_it_is_gives_the_genuine_tokens() {
    for (folder, file) in FORMATS {
        let case = format!("formats/{folder}");
        let checkpoint = open(&case, file);
        let prefix = match folder {
            "pytorch_bf16" => "",
            _ => "dequant_",
        };
        let quantised = !folder.ends_with("bf16");
        // Integer kernels against f32 arithmetic on the same values; keys and values in f32.
        let exact_kv = MoshiOptions {
            kv: Some(KvFormat::F32),
            ..AS_FILE
        };
        let moshi = load(&checkpoint, &exact_kv);
        let weights = match folder {
            "mlx_q4" => WeightFormat::Int4,
            _ if quantised => WeightFormat::Int8,
            _ => WeightFormat::Bf16,
        };
        assert_eq!(moshi.weights(), weights);
        let worst = compare(&case, &moshi, prefix, true);
        assert!(worst < 5e-3, "{case}: {worst}");
        if quantised {
            assert!(worst > 1e-6, "{case}: integers were not used");
        }
        // And with the smaller rings.
        for (kv, tolerance) in [(KvFormat::Bf16, 0.3), (KvFormat::Int8, 0.5)] {
            let options = MoshiOptions {
                kv: Some(kv),
                ..AS_FILE
            };
            let moshi = load(&checkpoint, &options);
            let worst = compare(&case, &moshi, prefix, true);
            assert!(worst < tolerance && worst > 1e-3, "{case} {kv:?}: {worst}");
            compare(&case, &moshi, "", false);
        }
    }
}

#[test]
fn quantising_while_loading_is_near() {
    let case = "formats/pytorch_bf16";
    for (weights, tolerance) in [(WeightFormat::Int8, 1.0), (WeightFormat::Int4, 12.0)] {
        let options = MoshiOptions {
            weights: Some(weights),
            kv: Some(KvFormat::F32),
            ..AS_FILE
        };
        let moshi = load(&open(case, "model.safetensors"), &options);
        assert_eq!(moshi.weights(), weights);
        let worst = compare(case, &moshi, "", true);
        assert!(worst < tolerance, "{weights:?}: {worst}");
    }
}

/// The same cases through our CUDA kernels, which the simulator runs on the processor.
#[cfg(feature = "cuda-sim")]
mod cuda_sim {
    use super::*;

    const EXACT: MoshiOptions = MoshiOptions {
        device: kaiwa_core::device::Device::CudaSim,
        ..super::EXACT
    };

    #[test]
    fn reference_cases_are_exact() {
        for case in ["moshi_small", "hibiki_small"] {
            let moshi = load(&open(case, "model.safetensors"), &EXACT);
            let worst = compare(case, &moshi, "", false);
            assert!(worst < 1e-3, "{case}: {worst}");
        }
    }

    #[test]
    fn an_adapter_is_merged() {
        let case = "moshi_small_lora";
        let config = std::fs::read_to_string(data(case).join("config.json")).unwrap();
        let plain = open(case, "model.safetensors");
        let adapter = data(case).join("lora.safetensors");
        let merged = plain.with_lora(&adapter, Some(&config)).unwrap();
        let worst = compare_some(case, &load(&merged, &EXACT), "", false, 20);
        assert!(worst < 1e-3, "{worst}");
    }

    /// Integers as the file has them.
    #[test]
    fn every_format_gives_the_genuine_tokens() {
        for (folder, file) in FORMATS {
            let case = format!("formats/{folder}");
            let options = MoshiOptions {
                weights: None,
                kv: Some(KvFormat::F32),
                ..EXACT
            };
            let moshi = load(&open(&case, file), &options);
            let weights = match folder {
                "mlx_q4" => WeightFormat::Int4,
                _ if folder.ends_with("bf16") => WeightFormat::Bf16,
                _ => WeightFormat::Int8,
            };
            assert_eq!(moshi.weights(), weights);
            let prefix = match folder {
                "pytorch_bf16" => "",
                _ => "dequant_",
            };
            let worst = compare_some(&case, &moshi, prefix, true, 25);
            assert!(worst < 1e-3, "{case}: {worst}");
        }
    }

    #[test]
    fn smaller_rings_are_near() {
        let case = "formats/mlx_q8";
        for (kv, tolerance) in [(KvFormat::Bf16, 0.3), (KvFormat::Int8, 0.5)] {
            let options = MoshiOptions {
                weights: None,
                kv: Some(kv),
                ..EXACT
            };
            let moshi = load(&open(case, "model.q8.safetensors"), &options);
            let worst = compare_some(case, &moshi, "dequant_", true, 25);
            assert!(worst < tolerance && worst > 1e-3, "{kv:?}: {worst}");
        }
    }

    #[test]
    fn quantising_while_loading_is_near() {
        let case = "formats/pytorch_bf16";
        for (weights, tolerance) in [(WeightFormat::Int8, 1.0), (WeightFormat::Int4, 12.0)] {
            let options = MoshiOptions {
                weights: Some(weights),
                kv: Some(KvFormat::F32),
                ..EXACT
            };
            let moshi = load(&open(case, "model.safetensors"), &options);
            assert_eq!(moshi.weights(), weights);
            let worst = compare_some(case, &moshi, "", true, 10);
            assert!(worst < tolerance, "{weights:?}: {worst}");
        }
    }
}

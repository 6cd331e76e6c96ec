//! The reference's tokens and logits.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;

use super::conversations::{Chosen, solo, tokens};
use super::fixtures::{Tensors, gguf, layout_a, requantised};
use super::{CandleLm, CandleOptions, EXACT, data, load, with};
use crate::checkpoint::Encoding;
use crate::checkpoint::SafeTensorsFile;
use crate::device::Device;
use crate::formats::{KvFormat, WeightFormat};
use crate::lm::LmCheckpoint;
use crate::lm::backend::LmBackend;

pub(super) struct Expected(SafeTensorsFile);

impl Expected {
    pub(super) fn of(case: &str) -> Self {
        Self(SafeTensorsFile::open(&data(case).join("expected.safetensors")).unwrap())
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        let bytes = self.0.read_bytes(name).unwrap();
        let words = bytes.as_chunks::<4>().0;
        words.iter().map(|w| i32::from_le_bytes(*w)).collect()
    }

    /// `[rows, columns]` as columns.
    pub(super) fn columns(&self, name: &str) -> Vec<Vec<i32>> {
        let shape = &self.0.tensor(name).unwrap().shape;
        let (all, width) = (self.ints(name), shape[1]);
        (0..width)
            .map(|c| all.iter().skip(c).step_by(width).copied().collect())
            .collect()
    }

    fn tokens(&self, prefix: &str) -> Vec<(i32, Vec<i32>)> {
        let text = self.ints(&format!("{prefix}step_text_tokens"));
        let audio = self.ints(&format!("{prefix}step_audio_tokens"));
        let audio = audio.chunks_exact(8).map(<[i32]>::to_vec);
        text.into_iter().zip(audio).collect()
    }

    /// Largest difference of any logit.
    fn off(&self, prefix: &str, made: &[Chosen]) -> f32 {
        let mut worst = 0f32;
        let text: Vec<f32> = made.iter().flat_map(|c| c.text_logits.clone()).collect();
        let audio: Vec<f32> = made.iter().flat_map(|c| c.audio_logits.clone()).collect();
        for (name, made) in [("text", text), ("audio", audio)] {
            let wanted = self.0.read_f32(&format!("{prefix}{name}_logits")).unwrap();
            assert_eq!(wanted.len(), made.len());
            for (a, b) in wanted.iter().zip(&made) {
                worst = worst.max((a - b).abs());
            }
        }
        worst
    }
}

/// Tokens and returned columns equal, logits within `tolerance` of those called `prefix`.
fn check(
    case: &str,
    tensors: &Tensors,
    options: CandleOptions,
    prefix: &str,
    tolerance: f32,
) -> f32 {
    let expected = Expected::of(case);
    let made = solo(&load(tensors, options), &expected.columns("user_codes"));
    let wanted = expected.tokens(prefix);
    assert_eq!(wanted.len(), made.len());
    for (step, (wanted, made)) in wanted.iter().zip(tokens(&made)).enumerate() {
        assert_eq!(*wanted, made, "{case}, {options:?}: step {step}");
    }
    let out: Vec<Vec<i32>> = made.iter().filter_map(|c| c.out.clone()).collect();
    assert_eq!(out, expected.columns(&format!("{prefix}out_tokens")));
    let off = expected.off(prefix, &made);
    assert!(
        off <= tolerance,
        "{case}, {options:?}: logits differ by {off}"
    );
    off
}

/// The ring wraps six times; it grows twice before.
#[test]
fn moshi_is_the_reference() {
    check("moshi_small", &layout_a("moshi_small"), EXACT, "", 2e-4);
}

/// A weight schedule, low-rank tables, delays of 2.
#[test]
fn hibiki_is_the_reference() {
    check("hibiki_small", &layout_a("hibiki_small"), EXACT, "", 2e-4);
}

/// On the processor bf16 files are exact in every form but blocks, and bf16 keys are rounded.
#[test]
fn bf16_files_in_every_form() {
    let case = "formats/pytorch_bf16";
    let tensors = layout_a(case);
    for weights in [Some(WeightFormat::F32), Some(WeightFormat::Bf16), None] {
        check(case, &tensors, with(weights), "", 2e-4);
    }
    // No argmax is nearer than 0.34 there.
    let half = CandleOptions {
        kv: KvFormat::Bf16,
        ..EXACT
    };
    let off = check(case, &tensors, half, "", 0.5);
    assert!(off > 1e-3, "bf16 keys cannot be exact, but differ by {off}");
    check(case, &tensors, with(Some(WeightFormat::Int8)), "", 1.6);
}

/// The real runtime's tokens on the real runtime's file, blocks as they are. Both round every
/// activation to 8 bits, where a last digit tips values over: each is as far from f32 (0.6 to
/// 0.8, of logits up to 20) as from the other.
#[test]
fn gguf_blocks_stay_blocks() {
    let case = "formats/candle_q8";
    let tensors = gguf(case, "model.q8.gguf");
    let blocks = tensors.held.values();
    let blocks = blocks.filter(|h| h.info.encoding == Encoding::Ggml(GgmlDType::Q8_0));
    assert!(blocks.count() > 50);
    let kept = check(case, &tensors, with(None), "", 1.2);
    assert!(
        kept > 0.01,
        "blocks multiply 8-bit activations, but differ by {kept}"
    );
    check(case, &tensors, with(None), "dequant_", 1.2);
    // Already of the kind that is wanted: the same blocks.
    let made = check(case, &tensors, with(Some(WeightFormat::Int8)), "", 1.2);
    assert_eq!(kept, made);
    check(case, &tensors, EXACT, "dequant_", 2e-4);
    let bytes = |weights| load(&tensors, with(weights)).weight_bytes() as f64;
    let part = bytes(None) / bytes(Some(WeightFormat::F32));
    assert!(part < 0.35, "{part}");
}

/// MLX's integers and 8-bit rows stay integers, and multiply 8-bit activations as GGUF's do.
#[test]
fn integers_of_every_format_stay_integers() {
    for (name, file, weights, part) in [
        ("mlx_q4", "model.q4.safetensors", None, 0.22),
        (
            "mlx_q4",
            "model.q4.safetensors",
            Some(WeightFormat::Int4),
            0.22,
        ),
        ("mlx_q8", "model.q8.safetensors", None, 0.35),
        ("pytorch_int8", "model.q8.safetensors", None, 0.35),
        (
            "pytorch_int8",
            "model.q8.safetensors",
            Some(WeightFormat::Int8),
            0.35,
        ),
    ] {
        let case = format!("formats/{name}");
        let config = std::fs::read_to_string(data(&case).join("config.json")).unwrap();
        let file = LmCheckpoint::open(&[data(&case).join(file)], Some(&config)).unwrap();
        let load = |weights| {
            let mut go_on = |_, _| ControlFlow::Continue(());
            let options = with(weights);
            Arc::new(CandleLm::load(&file, Device::CandleCpu, &options, &mut go_on).unwrap())
        };
        let (held, exact) = (load(weights), load(Some(WeightFormat::F32)));
        let expected = Expected::of(&case);
        let made = solo(&held, &expected.columns("user_codes"));
        for (step, (wanted, made)) in expected.tokens("").iter().zip(tokens(&made)).enumerate() {
            assert_eq!(*wanted, made, "{case}: step {step}");
        }
        let off = expected.off("dequant_", &made);
        assert!(off > 0.01 && off < 1.2, "{case}: logits differ by {off}");
        let bytes = held.weight_bytes() as f64 / exact.weight_bytes() as f64;
        assert!(bytes < part + 0.1, "{case}: {bytes}");
        assert_eq!(
            held.weights(),
            if name == "mlx_q4" {
                WeightFormat::Int4
            } else {
                WeightFormat::Int8
            }
        );
    }
}

/// A long run whose tokens leave the path if values are only nearly right.
#[test]
fn sharp_run() {
    let case = "formats/candle_q8";
    let expected = Expected::of(case);
    let model = load(&gguf(case, "model.q8.gguf"), EXACT);
    let made = solo(&model, &expected.columns("sharp_user_codes"));
    let out: Vec<Vec<i32>> = made.iter().filter_map(|c| c.out.clone()).collect();
    assert_eq!(out, expected.columns("sharp_out_tokens"));
}

/// Other blocks, kept or made: what they hold is what multiplies, to the 8 bits of an activation.
#[test]
fn four_bit_blocks() {
    let tensors = layout_a("formats/pytorch_bf16");
    let users = Expected::of("formats/pytorch_bf16").columns("user_codes");
    for (kind, encoding) in [
        (GgmlDType::Q4_0, Encoding::Q4_0),
        (GgmlDType::Q4_1, Encoding::Q4_1),
        (GgmlDType::Q5_0, Encoding::Ggml(GgmlDType::Q5_0)),
    ] {
        let quantised = requantised(&tensors, kind, encoding);
        let exact = solo(&load(&quantised, EXACT), &users[..1]);
        let plain = solo(&load(&tensors, EXACT), &users[..1]);
        let mut ways = vec![load(&quantised, with(None))];
        if kind == GgmlDType::Q4_0 {
            ways.push(load(&tensors, with(Some(WeightFormat::Int4))));
        }
        let spread = |a: &[f32], b: &[f32]| {
            let pairs = a.iter().zip(b);
            pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
        };
        for model in ways {
            let made = solo(&model, &users[..1]);
            let to_own = spread(&made[0].text_logits, &exact[0].text_logits);
            let to_plain = spread(&made[0].text_logits, &plain[0].text_logits);
            assert!(
                to_own > 0.0 && to_own < 0.5 * to_plain,
                "{kind:?}: {to_own} {to_plain}"
            );
        }
    }
}

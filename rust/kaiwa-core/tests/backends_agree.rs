//! Own kernels and Candle's operators on configurations for which there is no reference output.
//!
//! Both read the same random weights; they share no arithmetic, so an option that only one of
//! them understands shows.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;

use kaiwa_core::codec::{Mimi, MimiConfig, WeightType, Window};
use kaiwa_core::device::Device;
use support::{Part, file_bytes, golden_config};

/// Relative to the largest value: two orders of summation in f32.
const TOLERANCE: f32 = 1e-5;
const FRAMES: usize = 24;

fn random(seed: &mut u64) -> f32 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed % 20_001) as f32 / 10_000.0 - 1.0
}

/// Weights that keep signals at about their size from layer to layer.
fn weights(name: &str, config: &MimiConfig) -> PathBuf {
    let mut seed = 0x1234_5678_9abc_def1;
    let mut parts = Vec::new();
    for (name, shape) in config.tensors().unwrap() {
        let count: usize = shape.iter().product();
        let inputs: usize = if name.contains("convtr") {
            // Two of the kernel's taps meet in each output.
            2 * shape.first().unwrap()
        } else {
            shape.iter().skip(1).product()
        };
        let values: Vec<f32> = (0..count)
            .map(|_| {
                let value = random(&mut seed);
                match name.as_str() {
                    n if n.ends_with("cluster_usage") => 1.5 + value,
                    n if n.contains(".norm") && n.ends_with("weight") => 1.0 + 0.3 * value,
                    n if n.ends_with("bias") || n.ends_with(".scale") => 0.3 * value,
                    n if n.ends_with("embedding_sum") => value,
                    n if n.starts_with("upsample") => value,
                    _ => value * (3.0 / inputs as f32).sqrt(),
                }
            })
            .collect();
        parts.push(Part::f32(&name, &shape, &values));
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.safetensors"));
    std::fs::write(&path, file_bytes(&parts)).unwrap();
    path
}

fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(size > 1e-3 && size < 1e4, "{what}: size {size}");
    assert!(worst <= TOLERANCE * size, "{what}: {worst} of {size}");
}

/// Two slots, the second paused now and then, both window rules, through both backends.
fn agree(name: &str, config: &MimiConfig) {
    config.validate().unwrap();
    let path = weights(name, config);
    let books = config.quantizer.n_q;
    let load = |device| Mimi::load(&path, config.clone(), books, device, WeightType::F32).unwrap();
    let (cpu, candle) = (load(Device::Cpu), load(Device::CandleCpu));
    std::fs::remove_file(&path).unwrap();

    let frame = config.frame_size();
    let mut seed = 99;
    let pcm: Vec<f32> = (0..FRAMES * frame).map(|_| random(&mut seed)).collect();
    let latents = |mimi: &Mimi| {
        let latents = mimi.encode_to_latent(&pcm, 1, &mut |_, _| ControlFlow::Continue(()));
        latents.unwrap()
    };
    close(
        &format!("{name}: latents"),
        &latents(&cpu),
        &latents(&candle),
    );

    let mut stream = cpu.stream(2, Window::Streaming).unwrap();
    let mut other = candle.stream(2, Window::Streaming).unwrap();
    let (mut equal, mut all) = (0, 0);
    for n in 0..FRAMES {
        let mut pcm: Vec<f32> = (0..2 * frame).map(|_| random(&mut seed)).collect();
        let active = [true, n % 3 != 0];
        if !active[1] {
            pcm[frame..].fill(f32::NAN);
        }
        let wanted = stream.encode(&pcm, Some(&active)).unwrap();
        let codes = other.encode(&pcm, Some(&active)).unwrap();
        for (slot, on) in active.iter().enumerate().filter(|(_, on)| **on) {
            assert!(on);
            let range = slot * books..(slot + 1) * books;
            let pairs = wanted[range.clone()].iter().zip(&codes[range]);
            equal += pairs.filter(|(a, b)| a == b).count();
            all += books;
        }
        let mut codes: Vec<i32> = (0..2 * books)
            .map(|i| ((i * 7 + n) % config.quantizer.bins) as i32)
            .collect();
        if !active[1] {
            codes[books..].fill(i32::MAX);
        }
        let wanted = stream.decode(&codes, books, Some(&active)).unwrap();
        let got = other.decode(&codes, books, Some(&active)).unwrap();
        close(&format!("{name}: audio of frame {n}"), &wanted, &got);
    }
    // Near ties may fall either way; a wrong option would change most codes.
    assert!(
        equal * 100 >= all * 98,
        "{name}: {equal} of {all} codes equal"
    );
}

fn small() -> MimiConfig {
    let mut config = golden_config();
    config.sample_rate = 1200;
    config.frame_rate = 25.0;
    config.seanet.ratios = vec![4, 3];
    config.quantizer.n_q = 4;
    config
}

#[test]
fn four_steps_per_frame() {
    let config = small();
    assert_eq!((config.hop(), config.steps_per_frame()), (12, 4));
    agree("four_steps", &config);
}

#[test]
fn replicated_padding() {
    let mut config = small();
    config.seanet.replicate_pad = true;
    agree("replicate", &config);
}

#[test]
fn convolution_shortcuts_and_dilated_blocks() {
    let mut config = small();
    config.seanet.true_skip = false;
    config.seanet.n_residual_layers = 3;
    config.seanet.dilation_base = 3;
    config.seanet.compress = 1;
    agree("shortcuts", &config);
}

#[test]
fn no_residual_blocks_and_kernels_of_one() {
    let mut config = small();
    config.seanet.n_residual_layers = 0;
    config.seanet.kernel_size = 1;
    config.seanet.last_kernel_size = 5;
    config.seanet.ratios = vec![1, 12];
    agree("no_blocks", &config);
}

#[test]
fn projections_and_no_layer_scale() {
    let mut config = small();
    config.transformer.d_model = 48;
    config.transformer.num_heads = 3;
    config.transformer.dim_feedforward = 80;
    config.transformer.layer_scale = false;
    config.transformer.max_period = 500.0;
    config.transformer.norm_eps = 1e-3;
    agree("projections", &config);
}

#[test]
fn a_context_of_one_frame_and_one_codebook() {
    let mut config = small();
    config.transformer.context = 4;
    config.quantizer.n_q = 1;
    agree("short_context", &config);
}

#[test]
fn a_context_that_no_frame_divides() {
    let mut config = small();
    config.transformer.context = 7;
    agree("odd_context", &config);
}

//! Time of a language model's step on random weights: `cargo bench --bench lm -- [size] [kinds]
//! [slots] [history]`, e.g. `1b q8,q4,bf16 1,8 100,3000`. Prints milliseconds a step (median of
//! rounds), the rate at which weights are read against the measured read rate, and the stages, each
//! at its fastest.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use kaiwa_core::checkpoint::{Encoding, RawRows};
use kaiwa_core::formats::KvFormat;
use kaiwa_core::lm::synth::{RandomLm, Size};
use kaiwa_core::lm::{LmConfig, LmTensors, Moshi, MoshiOptions, Sampling, StepInput, TensorInfo};

/// Weights that are noise in the wanted encoding.
struct Noise {
    shapes: RandomLm,
    encoding: Encoding,
}

impl LmTensors for Noise {
    fn config(&self) -> &LmConfig {
        self.shapes.config()
    }
    fn names(&self) -> Vec<String> {
        self.shapes.names()
    }
    fn info(&self, name: &str) -> kaiwa_core::Result<TensorInfo> {
        let table = name.contains("emb") || name.contains("norm");
        Ok(TensorInfo {
            encoding: if table { Encoding::Bf16 } else { self.encoding },
            ..self.shapes.info(name)?
        })
    }
    fn read_raw(
        &self,
        name: &str,
        rows: Range<usize>,
        into: &mut RawRows,
    ) -> kaiwa_core::Result<()> {
        let info = self.info(name)?;
        let noise = |n: usize| -> Vec<u8> {
            let mut state = rows.start as u64 * 77 + 5;
            (0..n.div_ceil(8))
                .flat_map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(99);
                    state.to_le_bytes()
                })
                .take(n)
                .collect()
        };
        let values = rows.len() * info.cols;
        let scale = half::f16::from_f32(0.0003).to_le_bytes();
        let blocks = |size: usize, scale: [u8; 2]| {
            let mut data = noise(values / 32 * size);
            for b in data.chunks_exact_mut(size) {
                b[..2].copy_from_slice(&scale);
            }
            data
        };
        into.data = match info.encoding {
            Encoding::Q8_0 => blocks(34, scale),
            Encoding::Q4_0 => blocks(18, half::f16::from_f32(0.004).to_le_bytes()),
            Encoding::Bf16 => {
                let mut data = noise(values * 2);
                for b in data.chunks_exact_mut(2) {
                    b[1] = (b[1] & 0x80) | 0x3c;
                }
                data
            }
            other => panic!("{other:?}"),
        };
        Ok(())
    }
    fn read_f32(&self, _: &str, _: Range<usize>, out: &mut [f32]) -> kaiwa_core::Result<()> {
        out.fill(1.0);
        Ok(())
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or(default.into());
    let list = |i: usize, default: &str| -> Vec<String> {
        arg(i, default).split(',').map(str::to_owned).collect()
    };
    let size = arg(0, "300m");
    let bandwidth = kaiwa_core::cpu::read_bandwidth(1 << 30, 1.0) / 1e9;
    println!("{size}; reading takes {bandwidth:.1} GB/s");
    for kind in list(1, "q8,q4,bf16") {
        let encoding = match kind.as_str() {
            "q8" => Encoding::Q8_0,
            "q4" => Encoding::Q4_0,
            _ => Encoding::Bf16,
        };
        let noise = Noise {
            shapes: RandomLm::new(Size::parse(&size).unwrap().config(), 1),
            encoding,
        };
        let started = Instant::now();
        let options = MoshiOptions {
            kv: Some(KvFormat::parse(&arg(4, "bfloat16")).unwrap()),
            ..MoshiOptions::default()
        };
        let moshi = Moshi::load(&noise, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let bytes: usize = moshi.step_bytes().iter().map(|(_, b)| b).sum();
        println!(
            "{kind}: {:.2} GB a step, loaded in {:.1} s",
            bytes as f64 / 1e9,
            started.elapsed().as_secs_f64()
        );
        for history in list(3, "100") {
            for slots in list(2, "1,8") {
                let slots: usize = slots.parse().unwrap();
                let seeds: Vec<u64> = (0..slots as u64).collect();
                let mut stream = moshi
                    .stream(&seeds, &vec![Sampling::default(); slots])
                    .unwrap();
                stream.prefill_silence(history.parse().unwrap()).unwrap();
                let all: Vec<usize> = (0..slots).collect();
                let codes = vec![7; slots * 8];
                let step = |stream: &mut kaiwa_core::lm::MoshiStream| {
                    let started = Instant::now();
                    let input = StepInput {
                        slots: &all,
                        user_codes: &codes,
                        codebooks: 8,
                        ..StepInput::default()
                    };
                    stream.step(input).unwrap();
                    started.elapsed().as_secs_f64() * 1e3
                };
                for _ in 0..3 {
                    step(&mut stream);
                }
                let count = if size == "7b" { 9 } else { 31 };
                let mut stages: Vec<(&str, f64)> = vec![];
                let mut times: Vec<f64> = (0..count)
                    .map(|_| {
                        stream.clear_stage_seconds();
                        let time = step(&mut stream);
                        let now = stream.stage_seconds();
                        if stages.is_empty() {
                            stages.clone_from(&now);
                        }
                        for (best, now) in stages.iter_mut().zip(now) {
                            best.1 = best.1.min(now.1);
                        }
                        time
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                let median = times[count / 2];
                let rate = bytes as f64 / median / 1e6;
                println!(
                    "  history {history}, {slots} slots: {median:.2} ms ({:.2}..{:.2}), {:.2} a slot, {rate:.1} GB/s = {:.0} %",
                    times[0],
                    times[count - 1],
                    median / slots as f64,
                    rate / bandwidth * 100.0
                );
                let stages: Vec<String> = stages
                    .iter()
                    .map(|(n, s)| format!("{n} {:.2}", s * 1e3))
                    .collect();
                println!("    {}", stages.join(", "));
            }
        }
    }
}

//! Time of a language model's step on random weights: `cargo bench --bench lm -- [size] [kinds]
//! [slots] [history]`, e.g. `1b q8,q4,bf16 1,8 100,3000`. Prints milliseconds a step (median of
//! rounds), the rate at which weights are read against the measured read rate, and the stages.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use kaiwa_core::lm::{
    DepthConfig, Encoding, Gating, KvType, LmConfig, LmTensors, Moshi, MoshiOptions, Norm, RawRows,
    Rope, Sampling, StepInput, TensorInfo,
};

/// Weights that are noise in the wanted encoding.
struct Noise {
    config: LmConfig,
    encoding: Encoding,
}

fn config(size: &str) -> LmConfig {
    let (dim, layers, depth_dim) = match size {
        "300m" => (1024, 12, 512),
        "1b" => (2048, 16, 1024),
        "7b" => (4096, 32, 1024),
        _ => panic!("size is 300m, 1b or 7b"),
    };
    let hidden = |dim: usize| dim * 11 / 4;
    LmConfig {
        model_type: "moshi".into(),
        dim,
        num_layers: layers,
        num_heads: dim / 128,
        kv_repeat: 1,
        hidden: hidden(dim),
        gating: Gating::Silu,
        layer_scale: false,
        norm: Norm::Rms,
        context: 3000,
        max_period: 10_000.0,
        rope: Rope::Interleaved,
        n_q: 16,
        dep_q: 8,
        spoken: 8,
        card: 2048,
        text_card: 32_000,
        text_card_out: 32_000,
        delays: vec![0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
        padding_id: 3,
        end_padding_id: 0,
        depth: Some(DepthConfig {
            dim: depth_dim,
            num_layers: 6,
            num_heads: depth_dim / 64,
            kv_repeat: 1,
            hidden: vec![hidden(depth_dim); 8],
            gating: Gating::Silu,
            layer_scale: false,
            schedule: (0..8).collect(),
            low_rank: None,
            final_norm: None,
        }),
        conditions: vec![],
        extra_heads: (0, 6),
        sampling: Sampling::default(),
    }
}

impl LmTensors for Noise {
    fn config(&self) -> &LmConfig {
        &self.config
    }
    fn names(&self) -> Vec<String> {
        vec![]
    }
    fn info(&self, name: &str) -> kaiwa_core::Result<TensorInfo> {
        let (c, d) = (&self.config, self.config.depth.as_ref().unwrap());
        let (dim, hidden) = match name.starts_with("depformer") {
            true => (d.dim, d.hidden[0]),
            false => (c.dim, c.hidden),
        };
        let (rows, cols) = match name {
            "text_emb.weight" => (c.text_card + 1, dim),
            "depformer_text_emb.weight" => (c.text_card + 1, d.dim),
            "text_linear.weight" => (c.text_card, dim),
            n if n.contains("norm") => (1, dim),
            n if n.starts_with("emb.") || n.starts_with("depformer_emb") => (c.card + 1, dim),
            n if n.starts_with("depformer_in") => (d.dim, c.dim),
            n if n.starts_with("linears") => (c.card, d.dim),
            n if n.contains("in_projs") => (3 * dim, dim),
            n if n.contains("out_projs") => (dim, dim),
            n if n.contains("linear_in") => (2 * hidden, dim),
            _ => (dim, hidden),
        };
        let table = name.contains("emb") || name.contains("norm");
        Ok(TensorInfo {
            rows,
            cols,
            encoding: if table { Encoding::Bf16 } else { self.encoding },
            merged: false,
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
            config: config(&size),
            encoding,
        };
        let started = Instant::now();
        let options = MoshiOptions {
            kv: Some(KvType::parse(&arg(4, "bfloat16")).unwrap()),
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
                let codes = vec![7i64; slots * 8];
                let step = |stream: &mut kaiwa_core::lm::MoshiStream| {
                    let started = Instant::now();
                    let input = StepInput {
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
                let mut times: Vec<f64> = (0..count).map(|_| step(&mut stream)).collect();
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
                stream.clear_stage_seconds();
                for _ in 0..5 {
                    step(&mut stream);
                }
                let stages: Vec<String> = stream
                    .stage_seconds()
                    .iter()
                    .map(|(n, s)| format!("{n} {:.2}", s * 200.0))
                    .collect();
                println!("    {}", stages.join(", "));
            }
        }
    }
}

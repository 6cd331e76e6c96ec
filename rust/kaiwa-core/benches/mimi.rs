//! Time of the codec's steps on this machine, without Python in between.
//!
//! `cargo bench -p kaiwa-core -- MODEL.safetensors [float32|bfloat16]`, with a full-size file made
//! by `kaiwa synth mimi`. `KAIWA_CPU` and `KAIWA_THREADS` choose kernels and threads. For ratios
//! against other runtimes use `kaiwa bench mimi`, which runs them in the same run.
#![allow(clippy::print_stdout)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use kaiwa_core::codec::{Mimi, MimiConfig, WeightType, Window};
use kaiwa_core::device::Device;
use kaiwa_core::{Result, cpu};

const FRAMES: usize = 100;

fn tone(samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|i| (i as f32 * 0.03).sin() * 0.3)
        .collect()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn streams(mimi: &Mimi, slots: usize) -> Result<()> {
    let mut stream = mimi.stream(slots, Window::Streaming)?;
    let pcm = tone(slots * mimi.config().frame_size());
    let (mut encode, mut decode) = (vec![], vec![]);
    for _ in 0..FRAMES {
        let start = Instant::now();
        let codes = stream.encode(&pcm, None)?;
        encode.push(start.elapsed());
        let start = Instant::now();
        stream.decode(&codes, mimi.num_codebooks(), None)?;
        decode.push(start.elapsed());
    }
    let (e, d) = (median(encode), median(decode));
    println!(
        "{slots:3} slots: encode {e:6.2} ms, decode {d:6.2} ms, {:6.2} ms per slot and frame",
        (e + d) / slots as f64
    );
    Ok(())
}

fn file(mimi: &Mimi, seconds: usize) -> Result<()> {
    let pcm = tone(seconds * mimi.config().sample_rate);
    let mut go = |_, _| ControlFlow::Continue(());
    let start = Instant::now();
    let codes = mimi.encode(&pcm, 1, &mut go)?;
    let encode = start.elapsed().as_secs_f64();
    let start = Instant::now();
    mimi.decode(&codes, 1, mimi.num_codebooks(), &mut go)?;
    let decode = start.elapsed().as_secs_f64();
    println!("{seconds} s at once: encode {encode:.2} s, decode {decode:.2} s");
    Ok(())
}

fn main() -> Result<()> {
    // `cargo bench` adds flags of its own; `cargo test` runs benches without a model.
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let Some(path) = args.next() else {
        println!("pass a full-size checkpoint: cargo bench -p kaiwa-core -- MODEL.safetensors");
        return Ok(());
    };
    let dtype = WeightType::parse(args.next().as_deref().unwrap_or("float32"))?;
    let start = Instant::now();
    let mimi = Mimi::load(
        Path::new(&path),
        MimiConfig::default(),
        8,
        Device::Cpu,
        dtype,
    )?;
    println!(
        "{} kernels, {} threads, {} weights, loaded in {:.2} s",
        cpu::Isa::detect().name(),
        cpu::threads(),
        dtype.name(),
        start.elapsed().as_secs_f64()
    );
    for slots in [1, 4, 8, 16] {
        streams(&mimi, slots)?;
    }
    file(&mimi, 60)
}

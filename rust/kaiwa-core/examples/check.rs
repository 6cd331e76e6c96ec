use kaiwa_core::{checkpoint::SafeTensorsFile, codec::*};
use std::ops::ControlFlow;
use std::path::Path;
fn main() {
    for dir in std::env::args().skip(1) {
        let d = Path::new(&dir);
        let cfg =
            match MimiConfig::from_json(&std::fs::read_to_string(d.join("config.json")).unwrap()) {
                Ok(c) => c,
                Err(e) => {
                    println!("{dir}: {e}");
                    continue;
                }
            };
        let fs = cfg.frame_size();
        let g = SafeTensorsFile::open(&d.join("expected.safetensors")).unwrap();
        let mimi = match Mimi::load(
            &d.join("mimi.safetensors"),
            cfg,
            8,
            Device::Cpu,
            WeightType::F32,
        ) {
            Ok(m) => m,
            Err(e) => {
                println!("{dir}: {e}");
                continue;
            }
        };
        let codes = |n: &str| -> Vec<i32> {
            g.read_bytes(n)
                .unwrap()
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        let mut go = |_: usize, _: usize| ControlFlow::Continue(());
        let pcm = g.read_f32("pcm").unwrap();
        let diff = |a: &[f32], b: &[f32]| {
            (
                a.len() == b.len(),
                a.iter()
                    .zip(b)
                    .map(|(x, y)| (x - y).abs())
                    .fold(0f32, f32::max),
            )
        };
        let eq = |a: &[i32], b: &[i32]| {
            a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / b.len() as f64
        };
        let c = mimi.encode(&pcm, 1, &mut go).unwrap();
        let l = mimi.encode_to_latent(&pcm, 1, &mut go).unwrap();
        let want = codes("codes");
        let wide: Vec<i64> = want.iter().map(|&v| v as i64).collect();
        let a = mimi.decode(&wide, 1, 8, &mut go).unwrap();
        print!(
            "{dir}: codes {:.4} latent {:?} audio {:?}",
            eq(&c, &want),
            diff(&l, &g.read_f32("latent").unwrap()),
            diff(&a, &g.read_f32("decoded").unwrap())
        );
        if g.tensor("stream_codes").is_some() {
            let mut s = mimi.stream(1, Window::Streaming).unwrap();
            let sc = s.encode(&pcm[..39 * fs], None).unwrap();
            let w = codes("stream_codes");
            let wide: Vec<i64> = w.iter().map(|&v| v as i64).collect();
            let sa = s.decode(&wide, 8, None).unwrap();
            print!(
                " | stream codes {:.4} audio {:?}",
                eq(&sc, &w),
                diff(&sa, &g.read_f32("stream_decoded").unwrap())
            );
        }
        println!();
    }
}

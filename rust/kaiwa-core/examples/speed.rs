use kaiwa_core::codec::*;
use std::time::Instant;
fn main() {
    let path = std::env::args().nth(1).unwrap_or("x".into());
    let dtype = WeightType::parse(&std::env::args().nth(2).unwrap_or("float32".into())).unwrap();
    let t = Instant::now();
    let mimi = Mimi::load(path.as_ref(), MimiConfig::default(), 8, Device::Cpu, dtype).unwrap();
    println!("load {:?}", t.elapsed());
    for slots in [1usize, 4, 8, 16] {
        let mut s = mimi.stream(slots, Window::Streaming).unwrap();
        let pcm: Vec<f32> = (0..slots * 1920)
            .map(|i| (i as f32 * 0.01).sin() * 0.3)
            .collect();
        let (mut e, mut d) = (vec![], vec![]);
        for _ in 0..150 {
            let t = Instant::now();
            let codes = s.encode(&pcm, None).unwrap();
            e.push(t.elapsed().as_secs_f64() * 1e3);
            let codes: Vec<i64> = codes.iter().map(|&c| c as i64).collect();
            let t = Instant::now();
            s.decode(&codes, 8, None).unwrap();
            d.push(t.elapsed().as_secs_f64() * 1e3);
        }
        e.sort_by(f64::total_cmp);
        d.sort_by(f64::total_cmp);
        println!(
            "slots {slots:2}: enc {:.2} dec {:.2} ms/step; per slot {:.2}",
            e[75],
            d[75],
            (e[75] + d[75]) / slots as f64
        );
    }
    let pcm: Vec<f32> = (0..24000 * 60)
        .map(|i| (i as f32 * 0.01).sin() * 0.3)
        .collect();
    let mut go = |_: usize, _: usize| std::ops::ControlFlow::Continue(());
    let t = Instant::now();
    let codes = mimi.encode(&pcm, 1, &mut go).unwrap();
    let te = t.elapsed();
    let codes: Vec<i64> = codes.iter().map(|&c| c as i64).collect();
    let t = Instant::now();
    mimi.decode(&codes, 1, 8, &mut go).unwrap();
    println!("60 s file: enc {te:?} dec {:?}", t.elapsed());
}

//! Conditions and temperatures through whole frames: logits beside the processor's backend, and
//! tokens beside the processor's draws from the very logits.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::CudaLm;
use crate::cpu::Isa;
use crate::cuda::queue::Mode;
use crate::cuda::sim::Options;
use crate::cuda::sim_driver::SimExecutor;
use crate::formats::{KvFormat, WeightFormat};
use crate::lm::backend::cpu::CpuLm;
use crate::lm::backend::{Draw, Frame, LmBackend, LmState};
use crate::lm::random::uniform;
use crate::lm::sampling::token;
use crate::lm::synth::{RandomLm, Size};
use crate::lm::{Condition, LmConfig, Sampling};

const SLOTS: [usize; 3] = [0, 1, 2];
/// The likeliest, nearly so, and as usual.
const TEMPERATURES: [f32; 3] = [0.0, 0.02, 0.8];

fn config() -> LmConfig {
    let mut config = Size::Tiny.config();
    config.context = 20;
    config.conditions = vec![Condition {
        name: "description".into(),
        values: vec!["good".into(), "bad".into()],
        bins: 2,
        dim: 32,
    }];
    config
}

/// On the simulated card, and on the processor.
fn states() -> [Box<dyn LmState>; 2] {
    let tensors = RandomLm::new(config(), 5);
    let mut go_on = |_, _| ControlFlow::Continue(());
    let (form, kv) = (Some(WeightFormat::F32), KvFormat::F32);
    let card = SimExecutor::new(usize::MAX, Options::FORWARD, Mode::Graph);
    let own = CudaLm::load(card.executor(), &tensors, form, kv, &mut go_on).unwrap();
    let cpu = CpuLm::load(&tensors, form, kv, &mut go_on).unwrap();
    [
        Arc::new(own).state(3).unwrap(),
        Arc::new(cpu).state(3).unwrap(),
    ]
}

fn draws(step: u64) -> Vec<Draw> {
    let draw = |slot: &usize| Draw {
        sampling: Sampling {
            temp: TEMPERATURES[*slot],
            temp_text: TEMPERATURES[2 - *slot],
            top_k: 20,
            top_k_text: 0,
        },
        seed: 7 + *slot as u64,
        step,
    };
    SLOTS.iter().map(draw).collect()
}

/// Numbers between -1 and 1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let number = |i| (2.0 * uniform(seed, i, 3) - 1.0) as f32;
    (0..count as u64).map(number).collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

#[test]
fn conditions_reach_the_logits_as_on_the_processor() {
    let config = config();
    let [mut own, mut cpu] = states();
    let none = vec![0.0; 3 * config.dim];
    let mut moved = 0f32;
    for step in 0..24u64 {
        let columns = 3 * (config.n_q + 1);
        let tokens: Vec<i32> = (0..columns as i32)
            .map(|c| (c * 7 + step as i32) % 60)
            .collect();
        let conditions = noise(step, 3 * config.dim);
        let forced = vec![3; 3];
        let codes: Vec<i32> = (0..3 * config.spoken as i32).collect();
        let frame = Frame {
            slots: &SLOTS,
            tokens: &tokens,
            conditions: &conditions,
            draws: &draws(step),
            force_text: &forced,
            force_audio: &codes,
        };
        if step == 23 {
            // The same step without conditions, which is then made again with them.
            let plain = Frame {
                conditions: &none,
                ..frame
            };
            let [mut plainly, _] = states();
            plainly.step(&plain).unwrap();
            let without = plainly.logits().unwrap();
            let [mut again, _] = states();
            again.step(&frame).unwrap();
            moved = furthest(&without.text, &again.logits().unwrap().text);
        }
        let made = own.step(&frame).unwrap();
        assert_eq!(made, cpu.step(&frame).unwrap());
        assert!(made.text == forced && made.audio == codes);
        let (own, cpu) = (own.logits().unwrap(), cpu.logits().unwrap());
        let most = cpu.text.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = furthest(&own.text, &cpu.text).max(furthest(&own.audio, &cpu.audio));
        assert!(
            apart < 1e-3 * most.max(1.0),
            "step {step}: {apart} of {most}"
        );
    }
    assert!(moved > 0.1, "conditions change nothing: {moved}");
}

#[test]
fn low_temperatures_draw_what_the_processor_draws_from_these_logits() {
    let config = config();
    let [mut own, _] = states();
    let conditions = noise(1, 3 * config.dim);
    let mut others = 0;
    for step in 0..12u64 {
        let tokens = vec![(step % 50) as i32; 3 * (config.n_q + 1)];
        let draws = draws(step);
        let made = own.step(&Frame {
            slots: &SLOTS,
            tokens: &tokens,
            conditions: &conditions,
            draws: &draws,
            force_text: &[],
            force_audio: &[],
        });
        let (made, logits) = (made.unwrap(), own.logits().unwrap());
        for (row, draw) in draws.iter().enumerate() {
            let Sampling {
                temp,
                temp_text,
                top_k,
                top_k_text,
            } = draw.sampling;
            let drawn = |logits: &[f32], temperature, top_k, number| {
                let u = uniform(draw.seed, draw.step, number);
                token(Isa::detect(), logits, temperature, top_k, u)
            };
            let width = config.text_card_out;
            let text = &logits.text[row * width..][..width];
            assert_eq!(made.text[row], drawn(text, temp_text, top_k_text, 0));
            for k in 0..config.spoken {
                let at = row * config.spoken + k;
                let codes = &logits.audio[at * config.card..][..config.card];
                let wanted = drawn(codes, temp, top_k, 1 + k as u64);
                assert_eq!(made.audio[at], wanted, "row {row}, codebook {k}");
                others += i32::from(wanted != drawn(codes, 0.0, 1, 1 + k as u64));
            }
        }
    }
    assert!(others > 20, "only the likeliest were drawn: {others}");
}

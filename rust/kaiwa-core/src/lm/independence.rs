//! Tests: a slot's tokens and logits depend on its own conversation only, bit for bit.
#![allow(clippy::unwrap_used)]

use std::ops::{ControlFlow, Range};

use super::synth::{RandomLm, Size};
use super::{
    LmConfig, LmTensors, Logits, Moshi, MoshiOptions, MoshiStream, Sampling, StepInput, StepOutput,
    TensorInfo,
};
use crate::checkpoint::RawRows;
use crate::error::Result;
use crate::formats::{KvFormat, WeightFormat};

const SLOTS: usize = 5;
const STEPS: usize = 90;

fn model(options: &MoshiOptions) -> Moshi {
    let mut config = Size::Tiny.config();
    // A ring that wraps within the test.
    config.context = 20;
    let random = RandomLm::new(config, 3);
    Moshi::load(&random, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn random(a: u64, b: u64) -> u64 {
    (super::random::uniform(99, a, b) * 1e9) as u64
}

/// What one slot made at one step: text, audio, returned frame, and all logits.
type Made = (i32, Vec<i32>, Option<Vec<i32>>, Vec<f32>, Vec<f32>);

/// Codes of conversation `c` at its step `t`.
fn user(c: usize, t: usize) -> Vec<i32> {
    (0..8)
        .map(|k| (random(c as u64 * 1000 + t as u64, k) % 64) as i32)
        .collect()
}

fn settings(c: usize) -> (u64, Sampling) {
    let sampling = Sampling {
        temp: 0.5 + 0.1 * c as f32,
        temp_text: if c == 2 { 0.0 } else { 0.9 },
        top_k: 5 + 20 * c,
        top_k_text: 100,
    };
    (1000 + c as u64, sampling)
}

/// The only slot's codes, or a row of them for some slots.
fn input<'a>(slots: &'a [usize], codes: &'a [i32]) -> StepInput<'a> {
    StepInput {
        slots,
        user_codes: codes,
        codebooks: 8,
        ..StepInput::default()
    }
}

/// What row `row` of a step made.
fn of_row(logits: &Logits, out: &StepOutput, row: usize) -> Made {
    let rows = out.text.len();
    let part = |all: &[f32]| all[row * all.len() / rows..(row + 1) * all.len() / rows].to_vec();
    let books = out.audio.len() / rows;
    let codes = |all: &[i32]| all[row * books..(row + 1) * books].to_vec();
    let frame = out.ready[row].then(|| {
        let mut frame = vec![out.text[row]];
        frame.extend(codes(&out.audio));
        frame
    });
    assert!(out.finite[row]);
    (
        out.step_text[row],
        codes(&out.step_audio),
        frame,
        part(&logits.text),
        part(&logits.audio),
    )
}

fn alone(moshi: &Moshi, c: usize, steps: usize) -> Vec<Made> {
    let (seed, sampling) = settings(c);
    let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
    (0..steps)
        .map(|t| {
            let codes = user(c, t);
            let out = stream.step(input(&[0], &codes)).unwrap();
            of_row(&stream.logits().unwrap(), &out, 0)
        })
        .collect()
}

/// Slots join, pause and are reset at random; what each conversation made. `disturb` may tamper.
fn together(moshi: &Moshi, disturb: impl Fn(usize, &mut MoshiStream)) -> Vec<Vec<Made>> {
    let chosen: Vec<(u64, Sampling)> = (0..SLOTS).map(settings).collect();
    let seeds: Vec<u64> = chosen.iter().map(|s| s.0).collect();
    let sampling: Vec<Sampling> = chosen.iter().map(|s| s.1).collect();
    let mut stream = moshi.stream(&seeds, &sampling).unwrap();
    // Slot 1 begins another conversation at step 50.
    let mut made = vec![Vec::new(); SLOTS + 1];
    let mut talk: Vec<usize> = (0..SLOTS).collect();
    for step in 0..STEPS {
        if step == 50 {
            stream.reset(Some(&[1])).unwrap();
            let (seed, sampling) = settings(SLOTS);
            stream.set_seed(1, seed).unwrap();
            stream.set_sampling(1, sampling).unwrap();
            talk[1] = SLOTS;
        }
        disturb(step, &mut stream);
        let slots: Vec<usize> = (0..SLOTS)
            .filter(|s| step >= 7 * s && !random(step as u64, *s as u64).is_multiple_of(4))
            .collect();
        let codes = slots
            .iter()
            .flat_map(|s| user(talk[*s], made[talk[*s]].len()));
        let codes: Vec<i32> = codes.collect();
        let out = stream.step(input(&slots, &codes)).unwrap();
        let logits = stream.logits().unwrap();
        assert_eq!(logits.slots, slots);
        for (row, slot) in slots.iter().enumerate() {
            made[talk[*slot]].push(of_row(&logits, &out, row));
        }
    }
    made
}

fn ways() -> Vec<MoshiOptions> {
    let default = MoshiOptions::default();
    vec![
        MoshiOptions {
            weights: Some(WeightFormat::F32),
            ..default
        },
        default,
        MoshiOptions {
            weights: Some(WeightFormat::Int8),
            kv: Some(KvFormat::Int8),
            ..default
        },
        MoshiOptions {
            weights: Some(WeightFormat::Int4),
            ..default
        },
    ]
}

#[test]
fn a_slot_in_a_batch_is_the_slot_alone() {
    for options in ways() {
        let moshi = model(&options);
        for (c, made) in together(&moshi, |_, _| ()).iter().enumerate() {
            assert!(made.len() > 25, "conversation {c} is too short to wrap");
            assert!(*made == alone(&moshi, c, made.len()), "{options:?} {c}");
        }
    }
}

/// Our CUDA kernels, which the simulator runs on the processor.
#[cfg(feature = "cuda-sim")]
mod cuda_sim {
    use super::*;

    fn model() -> Moshi {
        super::model(&MoshiOptions {
            device: crate::device::Device::CudaSim,
            weights: Some(WeightFormat::Int8),
            kv: Some(KvFormat::Int8),
        })
    }

    #[test]
    fn a_slot_in_a_batch_is_the_slot_alone() {
        let moshi = model();
        for (c, made) in together(&moshi, |_, _| ()).iter().enumerate() {
            assert!(made.len() > 25, "conversation {c} is too short to wrap");
            assert!(*made == alone(&moshi, c, made.len()), "{c}");
        }
    }

    /// The control: keys that reach another slot show, and only there.
    #[test]
    fn a_shared_state_shows() {
        let moshi = model();
        let made = together(&moshi, |step, stream| {
            if step == 60 {
                stream.copy_slot(0, 3);
            }
        });
        for c in [0, 3] {
            let same = made[c] == alone(&moshi, c, made[c].len());
            assert_eq!(same, c != 3, "conversation {c}");
        }
    }
}

#[test]
fn a_shared_state_shows() {
    let moshi = model(&ways()[2]);
    let made = together(&moshi, |step, stream| {
        if step == 60 {
            stream.copy_slot(0, 3);
        }
    });
    for (c, made) in made.iter().enumerate() {
        let same = *made == alone(&moshi, c, made.len());
        assert_eq!(same, c != 3, "conversation {c}");
    }
}

#[test]
fn seeds_settings_and_forcing_do_what_they_say() {
    let moshi = model(&ways()[0]);
    let (_, sampling) = settings(4);
    let run = |seed: u64, forced: Option<i32>| -> Vec<i32> {
        let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
        let text: Vec<i32> = forced.into_iter().collect();
        (0..10)
            .flat_map(|t| {
                let codes = user(0, t);
                let out = stream
                    .step(StepInput {
                        force_text: &text,
                        ..input(&[0], &codes)
                    })
                    .unwrap();
                let mut all = vec![out.step_text[0]];
                all.extend(out.step_audio);
                all
            })
            .collect()
    };
    assert_eq!(run(1, None), run(1, None));
    assert_ne!(run(1, None), run(2, None));
    let forced = run(1, Some(77));
    assert!(forced.iter().step_by(9).all(|t| *t == 77));
    assert_ne!(
        forced[1..9],
        run(1, None)[1..9],
        "it conditions the codebooks"
    );
}

#[test]
fn bad_input_changes_nothing() {
    let moshi = model(&ways()[1]);
    let (seed, sampling) = settings(0);
    let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
    let mut made = Vec::new();
    for t in 0..12 {
        let codes = user(0, t);
        let good = input(&[0], &codes);
        let (high, low, few) = ([65; 8], [-2; 8], [0; 7]);
        for (codes, books) in [(&high[..], 8), (&low, 8), (&few, 7), (&codes, 4)] {
            let bad = StepInput {
                user_codes: codes,
                codebooks: books,
                ..good
            };
            assert!(stream.step(bad).is_err());
        }
        let twice = codes.repeat(2);
        for bad in [
            input(&[0, 1], &twice),
            input(&[0, 0], &twice),
            input(&[], &codes),
            StepInput {
                force_text: &[512],
                ..good
            },
            StepInput {
                force_text: &[1, 2],
                ..good
            },
            StepInput {
                force_audio: &[64; 8],
                ..good
            },
        ] {
            assert!(stream.step(bad).is_err());
        }
        assert!(stream.reset(Some(&[1])).is_err());
        let out = stream.step(good).unwrap();
        made.push(of_row(&stream.logits().unwrap(), &out, 0));
    }
    assert!(made == alone(&moshi, 0, 12));
    // "Zero" and "initial" are input; more codebooks than needed are cut off.
    for value in [-1, 64] {
        let codes = vec![value; 11];
        let more = StepInput {
            codebooks: 11,
            ..input(&[0], &codes)
        };
        stream.step(more).unwrap();
    }
    for (seeds, sampling) in [
        (vec![], vec![]),
        (vec![1], vec![]),
        (
            vec![1],
            vec![Sampling {
                temp: f32::NAN,
                ..Sampling::default()
            }],
        ),
    ] {
        assert!(moshi.stream(&seeds, &sampling).is_err());
    }
}

/// Tensors of which one value is no number.
struct Damaged(RandomLm, &'static str);

impl LmTensors for Damaged {
    fn config(&self) -> &LmConfig {
        self.0.config()
    }
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.0.info(name)
    }
    fn read_raw(&self, name: &str, rows: Range<usize>, into: &mut RawRows) -> Result<()> {
        self.0.read_raw(name, rows, into)
    }
    fn read_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let first = rows.start == 0;
        self.0.read_f32(name, rows, out)?;
        if first && name == self.1 {
            out[0] = f32::NAN;
        }
        Ok(())
    }
}

#[test]
fn output_that_is_no_number_is_told() {
    for (name, finite) in [
        ("", true),
        ("out_norm.alpha", false),
        ("depformer.layers.1.norm2.alpha", false),
    ] {
        let damaged = Damaged(RandomLm::new(Size::Tiny.config(), 3), name);
        let options = MoshiOptions::default();
        let moshi = Moshi::load(&damaged, &options, &mut |_, _| ControlFlow::Continue(()));
        let moshi = moshi.unwrap();
        let mut stream = moshi.stream(&[1, 2], &[Sampling::default(); 2]).unwrap();
        let out = stream.step(input(&[1], &user(0, 0))).unwrap();
        assert_eq!(out.finite, [finite], "{name}");
    }
}

#[test]
fn a_conversation_without_end_takes_no_more_memory() {
    let moshi = model(&ways()[2]);
    let (seed, sampling) = settings(1);
    let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
    assert_eq!(stream.state_bytes(), 0);
    let mut sizes = Vec::new();
    for t in 0..100_000 {
        let codes = user(0, t % 50);
        stream.step(input(&[0], &codes)).unwrap();
        sizes.push(stream.state_bytes());
    }
    assert!(
        sizes[0] > 0 && sizes.iter().all(|s| *s == sizes[0]),
        "one block of 64 holds 20"
    );
    assert_eq!(stream.steps(), [100_000]);
    // A fresh conversation takes the memory over.
    stream.reset(None).unwrap();
    assert_eq!(stream.state_bytes(), 0);
}

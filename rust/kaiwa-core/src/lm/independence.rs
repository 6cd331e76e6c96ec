//! Tests: a slot's tokens and logits depend on its own conversation only, bit for bit.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use super::synth::{RandomLm, Size};
use super::{KvType, LmDtype, Moshi, MoshiOptions, MoshiStream, Quantize, Sampling, StepInput};

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
fn user(c: usize, t: usize) -> Vec<i64> {
    (0..8)
        .map(|k| (random(c as u64 * 1000 + t as u64, k) % 64) as i64)
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

fn of_slot(stream: &MoshiStream, out: &super::StepOutput, slot: usize) -> Made {
    let (text, audio) = (stream.text_logits(), stream.audio_logits());
    let slots = stream.slots();
    let part = |all: &[f32]| all[slot * all.len() / slots..(slot + 1) * all.len() / slots].to_vec();
    let books = out.audio.len() / slots;
    let row = |all: &[i32]| all[slot * books..(slot + 1) * books].to_vec();
    let frame = out.ready[slot].then(|| {
        let mut frame = vec![out.text[slot]];
        frame.extend(row(&out.audio));
        frame
    });
    (
        out.step_text[slot],
        row(&out.step_audio),
        frame,
        part(text),
        part(audio),
    )
}

fn alone(moshi: &Moshi, c: usize, steps: usize) -> Vec<Made> {
    let (seed, sampling) = settings(c);
    let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
    (0..steps)
        .map(|t| {
            let codes = user(c, t);
            let out = stream
                .step(StepInput {
                    user_codes: &codes,
                    codebooks: 8,
                    ..StepInput::default()
                })
                .unwrap();
            of_slot(&stream, &out, 0)
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
        let active: Vec<bool> = (0..SLOTS)
            .map(|s| step >= 7 * s && !random(step as u64, s as u64).is_multiple_of(4))
            .collect();
        let codes: Vec<i64> = (0..SLOTS)
            .flat_map(|s| match active[s] {
                true => user(talk[s], made[talk[s]].len()),
                // Not looked at.
                false => vec![i64::MAX; 8],
            })
            .collect();
        let out = stream
            .step(StepInput {
                user_codes: &codes,
                codebooks: 8,
                active: Some(&active),
                ..StepInput::default()
            })
            .unwrap();
        for s in 0..SLOTS {
            if active[s] {
                made[talk[s]].push(of_slot(&stream, &out, s));
            } else {
                assert_eq!(
                    (out.text[s], out.step_text[s], out.ready[s]),
                    (-2, -2, false)
                );
            }
        }
    }
    made
}

fn ways() -> Vec<MoshiOptions> {
    let plain = MoshiOptions::default();
    vec![
        MoshiOptions {
            dtype: Some(LmDtype::F32),
            ..plain
        },
        plain,
        MoshiOptions {
            quantize: Some(Quantize::Int8),
            kv: Some(KvType::Int8),
            ..plain
        },
        MoshiOptions {
            quantize: Some(Quantize::Int4),
            ..plain
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
    let run = |seed: u64, forced: Option<i64>| -> Vec<i32> {
        let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
        let text = forced.map(|t| [t]);
        (0..10)
            .flat_map(|t| {
                let codes = user(0, t);
                let out = stream
                    .step(StepInput {
                        user_codes: &codes,
                        codebooks: 8,
                        force_text: text.as_ref().map(|t| &t[..]),
                        ..StepInput::default()
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
        let good = StepInput {
            user_codes: &codes,
            codebooks: 8,
            ..StepInput::default()
        };
        let (high, low, few) = (vec![65i64; 8], vec![-2i64; 8], vec![0i64; 7]);
        for (codes, books) in [(&high, 8), (&low, 8), (&few, 7), (&codes, 4)] {
            let bad = StepInput {
                user_codes: codes,
                codebooks: books,
                ..good
            };
            assert!(stream.step(bad).is_err());
        }
        for bad in [
            StepInput {
                active: Some(&[true, false]),
                ..good
            },
            StepInput {
                force_text: Some(&[512]),
                ..good
            },
            StepInput {
                force_text: Some(&[1, 2]),
                ..good
            },
            StepInput {
                force_audio: Some(&[64; 8]),
                ..good
            },
        ] {
            assert!(stream.step(bad).is_err());
        }
        assert!(stream.reset(Some(&[1])).is_err());
        let out = stream.step(good).unwrap();
        made.push(of_slot(&stream, &out, 0));
    }
    assert!(made == alone(&moshi, 0, 12));
    // "Zero" and "initial" are input; more codebooks than needed are cut off.
    for value in [-1, 64] {
        let codes = vec![value; 11];
        let input = StepInput {
            user_codes: &codes,
            codebooks: 11,
            ..StepInput::default()
        };
        stream.step(input).unwrap();
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

#[test]
fn a_conversation_without_end_takes_no_more_memory() {
    let moshi = model(&ways()[2]);
    let (seed, sampling) = settings(1);
    let mut stream = moshi.stream(&[seed], &[sampling]).unwrap();
    assert_eq!(stream.state_bytes(), 0);
    let mut sizes = Vec::new();
    for t in 0..100_000 {
        let codes = user(0, t % 50);
        let input = StepInput {
            user_codes: &codes,
            codebooks: 8,
            ..StepInput::default()
        };
        stream.step(input).unwrap();
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

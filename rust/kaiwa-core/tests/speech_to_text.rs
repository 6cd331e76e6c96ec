//! Speech to text against the reference: alone and among neighbours, in every format, and through
//! the engine's pipeline.
#![allow(clippy::unwrap_used, missing_docs)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::codec::{Mimi, MimiConfig, WeightType};
use kaiwa_core::device::Device;
use kaiwa_core::formats::{KvFormat, WeightFormat};
use kaiwa_core::lm::convert::{Target, config_json, convert};
use kaiwa_core::lm::synth::{RandomLm, Size};
use kaiwa_core::lm::{
    LmCheckpoint, LmTensors, Moshi, MoshiOptions, MoshiStream, Sampling, StepInput,
};
use kaiwa_core::pipeline::{self, FRAME_SIZE, FrameIn, Pipeline, Start};

const EXACT: MoshiOptions = MoshiOptions {
    device: Device::Cpu,
    weights: Some(WeightFormat::F32),
    kv: None,
};
const BOOKS: usize = 32;
const STEPS: usize = 90;

fn data(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/stt_small");
    folder.join(file)
}

fn open() -> LmCheckpoint {
    let config = std::fs::read_to_string(data("config.json")).unwrap();
    LmCheckpoint::open(&[data("model.safetensors")], Some(&config)).unwrap()
}

fn load(tensors: &dyn LmTensors, options: &MoshiOptions) -> Moshi {
    Moshi::load(tensors, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn greedy(moshi: &Moshi, slots: usize) -> MoshiStream {
    let own = moshi.config().sampling;
    assert_eq!((own.temp, own.temp_text), (0.0, 0.0));
    moshi.stream(&vec![0; slots], &vec![own; slots]).unwrap()
}

struct Expected(SafeTensorsFile);

impl Expected {
    fn open() -> Self {
        Self(SafeTensorsFile::open(&data("expected.safetensors")).unwrap())
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        let bytes = self.0.read_bytes(name).unwrap();
        match self.0.tensor(name).unwrap().dtype.0.as_str() {
            "I32" => {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|b| i32::from_le_bytes(*b)).collect()
            }
            "I64" => {
                let words = bytes.as_chunks::<8>().0.iter();
                words.map(|b| i64::from_le_bytes(*b) as i32).collect()
            }
            other => panic!("{other}"),
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.read_f32(name).unwrap()
    }

    /// Column `step` of `[32, steps]`.
    fn codes(&self, step: usize) -> Vec<i32> {
        let all = self.ints("codes");
        all.iter().skip(step).step_by(STEPS).copied().collect()
    }
}

/// Largest difference of two lists.
fn far(made: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(made.len(), wanted.len());
    let each = made.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

/// The whole case alone: tokens, and the largest differences of a logit and of a probability.
fn alone(moshi: &Moshi) -> (Vec<i32>, f32, f32) {
    let expected = Expected::open();
    let (logits, heads) = (expected.floats("text_logits"), expected.floats("heads"));
    let mut stream = greedy(moshi, 1);
    let (mut tokens, mut logits_far, mut heads_far) = (vec![], 0f32, 0f32);
    for step in 0..STEPS {
        let out = stream
            .step(StepInput {
                slots: &[0],
                user_codes: &expected.codes(step),
                codebooks: BOOKS,
                ..StepInput::default()
            })
            .unwrap();
        // The first call returns already.
        assert!(out.ready[0] && out.finite[0] && out.audio.is_empty());
        assert_eq!(out.text, out.step_text);
        let made = stream.logits().unwrap().text;
        logits_far = logits_far.max(far(&made, &logits[step * made.len()..][..made.len()]));
        heads_far = heads_far.max(far(&out.heads, &heads[step * 24..][..24]));
        tokens.extend(out.text);
    }
    (tokens, logits_far, heads_far)
}

#[test]
fn the_reference_case_is_exact() {
    let moshi = load(&open(), &EXACT);
    assert_eq!(moshi.config().extra_heads, (4, 6));
    let (tokens, logits, heads) = alone(&moshi);
    assert_eq!(tokens, Expected::open().ints("text_tokens"));
    assert!(logits < 2e-4 && heads < 2e-4, "{logits} {heads}");
}

/// Candle's operators, as on a card.
#[test]
fn the_reference_case_is_exact_through_candle() {
    let options = MoshiOptions {
        device: Device::CandleCpu,
        ..EXACT
    };
    let (tokens, logits, heads) = alone(&load(&open(), &options));
    assert_eq!(tokens, Expected::open().ints("text_tokens"));
    assert!(logits < 2e-4 && heads < 2e-4, "{logits} {heads}");
}

/// Our CUDA kernels, which the simulator runs on the processor.
#[cfg(feature = "cuda-sim")]
#[test]
fn the_reference_case_is_exact_through_the_cuda_kernels() {
    let options = MoshiOptions {
        device: Device::CudaSim,
        ..EXACT
    };
    let (tokens, logits, heads) = alone(&load(&open(), &options));
    assert_eq!(tokens, Expected::open().ints("text_tokens"));
    assert!(logits < 1e-3 && heads < 1e-3, "{logits} {heads}");
}

/// Slots begin at different times, pause by turns, and one is reset half-way: each gives the tokens
/// and the probabilities of the reference, bit for bit those of a slot that is alone.
#[test]
fn neighbours_pauses_and_resets_change_nothing() {
    const SLOTS: usize = 4;
    let moshi = load(&open(), &EXACT);
    let expected = Expected::open();
    let wanted = expected.ints("text_tokens");
    let columns: Vec<Vec<i32>> = (0..STEPS).map(|step| expected.codes(step)).collect();
    let mut single = greedy(&moshi, 1);
    let mut reference = Vec::new();
    for codes in &columns {
        let input = StepInput {
            slots: &[0],
            user_codes: codes,
            codebooks: BOOKS,
            ..StepInput::default()
        };
        reference.push(single.step(input).unwrap().heads);
    }
    let mut stream = greedy(&moshi, SLOTS);
    let mut done = [0; SLOTS];
    let mut finished = [0; SLOTS];
    for turn in 0.. {
        if turn == 40 {
            stream.reset(Some(&[2])).unwrap();
            done[2] = 0;
        }
        let runs = |slot: &usize| {
            turn >= 5 * slot && !(turn + slot).is_multiple_of(slot + 2) && done[*slot] < STEPS
        };
        let slots: Vec<usize> = (0..SLOTS).filter(runs).collect();
        if slots.is_empty() && turn > 40 && done == [STEPS; SLOTS] {
            break;
        }
        let codes: Vec<i32> = slots
            .iter()
            .flat_map(|slot| columns[done[*slot]].clone())
            .collect();
        let out = stream
            .step(StepInput {
                slots: &slots,
                user_codes: &codes,
                codebooks: BOOKS,
                ..StepInput::default()
            })
            .unwrap();
        for (row, slot) in slots.iter().enumerate() {
            assert_eq!(out.text[row], wanted[done[*slot]], "slot {slot}");
            assert_eq!(out.heads[row * 24..][..24], reference[done[*slot]]);
            done[*slot] += 1;
            finished[*slot] += 1;
        }
    }
    // The one that was reset began anew.
    assert!(finished[2] > STEPS && finished[0] == STEPS, "{finished:?}");
}

/// A folder that vanishes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_format_is_written_and_read() {
    let folder =
        Folder(std::env::temp_dir().join(format!("kaiwa-{}-stt-formats", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    // The widths of the reference case are not those of MLX's groups; these are.
    let source = RandomLm::new(Size::SttTiny.config(), 5);
    let exact = load(&source, &EXACT);
    for (name, logits_within, heads_within) in [
        ("pytorch-bf16", 0.0, 0.0),
        ("pytorch-int8", 1.0, 0.1),
        ("candle-bf16", 0.0, 0.0),
        ("gguf-q8", 1.0, 0.1),
        ("mlx-bf16", 0.0, 0.0),
        ("mlx-q8", 1.0, 0.1),
        ("mlx-q4", 12.0, 0.8),
    ] {
        let target = Target::parse(name).unwrap();
        let out = folder.0.join(format!("{name}-{}", target.file_name()));
        convert(&source, target, &out, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let config = config_json(source.config(), target, target.file_name());
        let checkpoint = LmCheckpoint::open(&[out], Some(&config)).unwrap();
        assert_eq!(checkpoint.config(), source.config(), "{name}");
        // f32 arithmetic on the file's values: what the format loses of the model.
        let read = load(&checkpoint, &EXACT);
        let (logits, heads) = both(&exact, &read);
        assert!(
            logits <= logits_within && heads <= heads_within,
            "{name}: {logits} {heads}"
        );
        assert!(
            logits_within == 0.0 || logits > 1e-3,
            "{name}: nothing was rounded"
        );
        // The file's own form, against f32 arithmetic on the same values.
        let held = MoshiOptions {
            weights: None,
            kv: Some(KvFormat::F32),
            ..EXACT
        };
        let (logits, heads) = both(&read, &load(&checkpoint, &held));
        assert!(logits < 5e-3 && heads < 1e-3, "{name}: {logits} {heads}");
    }
}

/// Largest difference of logits and of probabilities between two random models that are led along
/// the tokens of the first.
fn both(one: &Moshi, other: &Moshi) -> (f32, f32) {
    let mut streams = [greedy(one, 1), greedy(other, 1)];
    let mut worst = (0f32, 0f32);
    let books = one.config().user_codebooks() as i32;
    let mut token = None;
    for step in 0..80 {
        let codes: Vec<i32> = (0..books).map(|k| (step * 31 + k * 17 + 7) % 64).collect();
        let mut run = |stream: &mut MoshiStream| {
            let forced: Vec<i32> = token.into_iter().collect();
            let out = stream
                .step(StepInput {
                    slots: &[0],
                    user_codes: &codes,
                    codebooks: codes.len(),
                    force_text: &forced,
                    ..StepInput::default()
                })
                .unwrap();
            token = Some(out.step_text[0]);
            (stream.logits().unwrap().text, out.heads)
        };
        let [first, second] = &mut streams;
        let (a, b) = (run(first), run(second));
        token = None;
        worst = (worst.0.max(far(&a.0, &b.0)), worst.1.max(far(&a.1, &b.1)));
    }
    worst
}

/// Heads that the configuration leaves out are those of the file; others are still unexpected.
#[test]
fn heads_of_the_file_count() {
    let text = std::fs::read_to_string(data("config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).unwrap();
    config.remove("extra_heads_num_heads");
    config.remove("extra_heads_dim");
    config.remove("stt_config");
    config.remove("lm_gen_config");
    let text = serde_json::Value::Object(config.clone()).to_string();
    let checkpoint = LmCheckpoint::open(&[data("model.safetensors")], Some(&text)).unwrap();
    assert_eq!(checkpoint.config().extra_heads, (4, 6));
    let (tokens, ..) = alone(&load(&checkpoint, &EXACT));
    assert_eq!(tokens, Expected::open().ints("text_tokens"));
    for (key, value, named) in [
        (
            "extra_heads_num_heads",
            serde_json::json!(2),
            "extra_heads.2",
        ),
        (
            "extra_heads_num_heads",
            serde_json::json!(5),
            "extra_heads.4",
        ),
        (
            "extra_heads_num_heads",
            serde_json::json!(65),
            "extra_heads",
        ),
        (
            "stt_config",
            serde_json::json!({"audio_delay_seconds": -1}),
            "audio_delay_seconds",
        ),
        (
            "stt_config",
            serde_json::json!({"audio_delay_seconds": 1e3}),
            "60 seconds",
        ),
        ("stt_config", serde_json::json!("soon"), "stt_config"),
    ] {
        let mut bad = config.clone();
        bad.insert(key.into(), value);
        let text = serde_json::Value::Object(bad).to_string();
        let error = LmCheckpoint::open(&[data("model.safetensors")], Some(&text));
        let message = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(named), "{key}: {message}");
    }
}

fn codec(codebooks: usize) -> Mimi {
    let text = std::fs::read_to_string(data("mimi.json")).unwrap();
    let config = MimiConfig::from_json(&text).unwrap();
    let path = data("mimi.safetensors");
    Mimi::load(&path, config, codebooks, Device::Cpu, WeightType::F32).unwrap()
}

/// The file of the case: samples, silence behind them, and the tokens of its frames.
fn file() -> (Vec<Vec<f32>>, Vec<i32>) {
    let expected = Expected::open();
    let mut pcm = expected.floats("file_pcm");
    // The delay of half a second, and a second.
    pcm.resize(pcm.len() + 36_000, 0.0);
    let frames = pcm.chunks_exact(FRAME_SIZE).map(<[f32]>::to_vec);
    (frames.collect(), expected.ints("file_text_tokens"))
}

#[test]
fn a_file_through_the_pipeline_gives_the_tokens_of_the_reference() {
    let (frames, wanted) = file();
    let mut pipeline = pipeline::of_model(codec(BOOKS), load(&open(), &EXACT), 3).unwrap();
    assert_eq!(
        (pipeline.slots(), pipeline.delay(), pipeline.tail()),
        (3, 0, 18)
    );
    // Slot 1 begins three frames later, slot 0 is paused now and then, slot 2 begins anew.
    let mut made = [vec![], vec![], vec![]];
    let mut turn = 0;
    while made.iter().any(|tokens| tokens.len() < frames.len()) {
        turn += 1;
        if turn == 20 {
            made[2].clear();
        }
        let runs = |slot: &usize| match slot {
            0 => turn % 3 != 0,
            1 => turn > 3,
            _ => true,
        };
        let slots = (0..3usize).filter(runs);
        let slots: Vec<usize> = slots.filter(|s| made[*s].len() < frames.len()).collect();
        for slot in &slots {
            if made[*slot].is_empty() {
                pipeline.begin(*slot, &Start::default()).unwrap();
            }
        }
        let rows: Vec<(usize, FrameIn<'_>)> = slots
            .iter()
            .map(|slot| (*slot, FrameIn::Audio(&frames[made[*slot].len()])))
            .collect();
        let answers = pipeline.step(&rows).unwrap();
        for (slot, answer) in slots.iter().zip(answers) {
            assert!(answer.audio.is_none() && answer.fault.is_none());
            assert_eq!(answer.pauses.len(), 4);
            assert!(answer.pauses.iter().all(|p| (0.0..=1.0).contains(p)));
            made[*slot].push(answer.text.unwrap());
        }
    }
    for tokens in made {
        assert_eq!(tokens, wanted);
    }
    pipeline.renew().unwrap();
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let moshi = load(&open(), &EXACT);
    let error = pipeline::Transcriber::new(codec(8), moshi, 1)
        .err()
        .unwrap();
    assert!(error.to_string().contains("32 codebooks"), "{error}");
    let folder = data("../moshi_small");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let other = LmCheckpoint::open(&[folder.join("model.safetensors")], Some(&config)).unwrap();
    let speaks = load(&other, &EXACT);
    let error = pipeline::Transcriber::new(codec(8), speaks, 1)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("speech to text model"),
        "{error}"
    );
    let sampled = load(&open(), &EXACT);
    let hot = Sampling {
        temp_text: 5.0,
        ..sampled.config().sampling
    };
    let mut transcriber = pipeline::Transcriber::new(codec(BOOKS), sampled, 1).unwrap();
    let silence = vec![0.0; FRAME_SIZE];
    let mut run = |start: &Start| -> Vec<Option<i32>> {
        transcriber.begin(0, start).unwrap();
        let mut step = || transcriber.step(&[(0, FrameIn::Audio(&silence))]).unwrap();
        (0..12).map(|_| step()[0].text).collect()
    };
    let own = run(&Start::default());
    let asked = run(&Start {
        seed: 3,
        sampling: Some(hot),
    });
    assert_ne!(own, asked, "a session's own sampling counts");
    assert_eq!(own, run(&Start::default()));
    assert!(transcriber.step(&[(0, FrameIn::Text(&[1]))]).is_err());
}

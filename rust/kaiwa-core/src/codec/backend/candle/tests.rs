//! The Candle backend against the reference's outputs, and slots against themselves alone.
//!
//! `tests/data/mimi_small` was made with the reference implementation (float32); its weights are
//! such that an error anywhere shows, and its window is passed several times.
#![allow(clippy::unwrap_used)]

#[path = "../../../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use super::state::{DirectionState, StateShape};
use super::{CandleMimi, CodecBackend};
use crate::checkpoint::SafeTensorsFile;
use crate::codec::{Mimi, MimiTensors, WeightType, Window};
use crate::device::Device;
use crate::error::Error;
use support::{Part, file, golden, golden_config, golden_parts};

/// Largest accepted difference of audio and latents from the reference.
const TOLERANCE: f32 = 1e-6;
const FRAME: usize = 1920;
const WIDTH: usize = 32;

struct Golden {
    file: SafeTensorsFile,
}

impl Golden {
    fn open() -> Self {
        Self {
            file: SafeTensorsFile::open(&golden("expected.safetensors")).unwrap(),
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.file.read_f32(name).unwrap()
    }

    /// `[codebooks, frames]`.
    fn codes(&self, name: &str) -> Vec<i32> {
        let bytes = self.file.read_bytes(name).unwrap();
        bytes
            .chunks(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// The signal, with zeros up to a whole frame.
    fn pcm(&self) -> Vec<f32> {
        let mut pcm = self.floats("pcm");
        pcm.resize(pcm.len().next_multiple_of(FRAME), 0.0);
        pcm
    }
}

fn model() -> Arc<CandleMimi> {
    load(WeightType::F32)
}

fn load(dtype: WeightType) -> Arc<CandleMimi> {
    let config = golden_config();
    let mut tensors = MimiTensors::open(&golden("mimi.safetensors"), &config).unwrap();
    let model = CandleMimi::load(
        &mut tensors,
        &config,
        dtype,
        Device::CandleCpu.open().unwrap(),
    )
    .unwrap();
    tensors.finish().unwrap();
    Arc::new(model)
}

/// The first `codebooks` codes of `rows` latents: `[rows, codebooks]`.
fn quantize(model: &CandleMimi, latents: &[f32], rows: usize, codebooks: usize) -> Vec<i32> {
    let codes = model.quantize(latents, rows, codebooks).unwrap();
    codes.into_iter().map(|code| code as i32).collect()
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose<T: Copy>(x: &[T], columns: usize) -> Vec<T> {
    (0..columns)
        .flat_map(|c| x.iter().skip(c).step_by(columns).copied())
        .collect()
}

/// One slot's latents `[frames, WIDTH]`, `chunk` frames per call.
fn latents(model: &Arc<CandleMimi>, pcm: &[f32], chunk: usize, window: Window) -> Vec<f32> {
    let mut state = model.clone().state(1, window).unwrap();
    let mut out = Vec::new();
    for piece in pcm.chunks(chunk * FRAME) {
        let mut latents = vec![0.0; piece.len() / FRAME * WIDTH];
        state.encode_latent(&[0], piece, &mut latents).unwrap();
        out.extend(latents);
    }
    out
}

/// One slot's audio from codes `[codebooks, frames]`, `chunk` frames per call.
fn audio(
    model: &Arc<CandleMimi>,
    codes: &[i32],
    books: usize,
    chunk: usize,
    window: Window,
) -> Vec<f32> {
    let mut state = model.clone().state(1, window).unwrap();
    let frames = codes.len() / books;
    let mut out = Vec::new();
    for start in (0..frames).step_by(chunk) {
        let count = chunk.min(frames - start);
        let piece = cut(codes, frames, start, count);
        let mut pcm = vec![0.0; count * FRAME];
        state.decode(&[0], &piece, books, &mut pcm).unwrap();
        out.extend(pcm);
    }
    out
}

/// Columns of a `[rows, frames]` array.
fn cut(codes: &[i32], frames: usize, start: usize, count: usize) -> Vec<i32> {
    codes
        .chunks(frames)
        .flat_map(|row| &row[start..start + count])
        .copied()
        .collect()
}

#[test]
fn whole_signal() {
    let (golden, model) = (Golden::open(), model());
    let wanted = transpose(&golden.floats("latent"), 55);
    for chunk in [55, 1, 7, 16] {
        let got = latents(&model, &golden.pcm(), chunk, Window::Whole);
        assert!(
            largest(&got, &wanted) < TOLERANCE,
            "chunk {chunk}: {}",
            largest(&got, &wanted)
        );
        for (name, books) in [("codes", 8), ("codes_all", 12)] {
            let codes = quantize(&model, &got, 55, books);
            assert_eq!(
                transpose(&codes, books),
                golden.codes(name),
                "chunk {chunk}"
            );
        }
        let got = audio(&model, &golden.codes("codes"), 8, chunk, Window::Whole);
        let difference = largest(&got, &golden.floats("decoded"));
        assert!(difference < TOLERANCE, "chunk {chunk}: {difference}");
    }
}

#[test]
fn streaming() {
    let (golden, model) = (Golden::open(), model());
    let pcm = &golden.pcm()[..54 * FRAME];
    for chunk in [1, 54, 3, 10] {
        let got = latents(&model, pcm, chunk, Window::Streaming);
        let codes = quantize(&model, &got, 54, 8);
        assert_eq!(
            transpose(&codes, 8),
            golden.codes("stream_codes"),
            "chunk {chunk}"
        );
        let got = audio(
            &model,
            &golden.codes("stream_codes"),
            8,
            chunk,
            Window::Streaming,
        );
        let difference = largest(&got, &golden.floats("stream_decoded"));
        assert!(difference < TOLERANCE, "chunk {chunk}: {difference}");
    }
}

/// The golden case can tell the two windows apart, in both directions.
#[test]
fn the_wrong_window_shows() {
    let (golden, model) = (Golden::open(), model());
    let codes = cut(&golden.codes("codes"), 55, 0, 54);
    let whole = audio(&model, &codes, 8, 54, Window::Whole);
    let streaming = audio(&model, &codes, 8, 54, Window::Streaming);
    assert!(largest(&whole, &streaming) > 1e-5);
    // Equal while the stream is no longer than half the context of 16 steps of half a frame.
    assert!(largest(&whole[..8 * FRAME], &streaming[..8 * FRAME]) < TOLERANCE);
    let pcm = &golden.pcm()[..54 * FRAME];
    let whole = latents(&model, pcm, 1, Window::Whole);
    let streaming = latents(&model, pcm, 1, Window::Streaming);
    assert!(largest(&whole, &streaming) > 1e-5);
}

/// A small seeded generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn sample(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }
}

/// What one slot did since its last reset: its inputs and what came out.
#[derive(Default, Clone)]
struct Life {
    pcm: Vec<f32>,
    latents: Vec<f32>,
    codes: Vec<Vec<i32>>,
    audio: Vec<f32>,
}

/// Slots that pause and restart at random equal each life run alone.
#[test]
fn slots_do_not_see_each_other() {
    const SLOTS: usize = 4;
    const BOOKS: usize = 5;
    let model = model();
    let mut random = Random(77);
    let mut state = model.clone().state(SLOTS, Window::Streaming).unwrap();
    let mut lives = vec![Life::default(); SLOTS];
    let mut ended = Vec::new();
    let mut longest = 0;
    for round in 0..70 {
        if round % 9 == 5 {
            let slot = random.below(SLOTS);
            state.reset(slot).unwrap();
            ended.push(std::mem::take(&mut lives[slot]));
        }
        let frames = 1 + random.below(3);
        let slots: Vec<usize> = (0..SLOTS).filter(|_| random.below(3) > 0).collect();
        let pcm: Vec<f32> = (0..slots.len() * frames * FRAME)
            .map(|_| random.sample())
            .collect();
        let codes: Vec<i32> = (0..slots.len() * BOOKS * frames)
            .map(|_| random.below(64) as i32)
            .collect();
        let mut latents = vec![0.0; slots.len() * frames * WIDTH];
        let mut audio = vec![0.0; slots.len() * frames * FRAME];
        state.encode_latent(&slots, &pcm, &mut latents).unwrap();
        state.decode(&slots, &codes, BOOKS, &mut audio).unwrap();
        for (row, slot) in slots.iter().enumerate() {
            let life = &mut lives[*slot];
            let latents = &latents[row * frames * WIDTH..(row + 1) * frames * WIDTH];
            let audio = &audio[row * frames * FRAME..(row + 1) * frames * FRAME];
            life.pcm
                .extend(&pcm[row * frames * FRAME..(row + 1) * frames * FRAME]);
            life.latents.extend(latents);
            let rows = &codes[row * BOOKS * frames..(row + 1) * BOOKS * frames];
            life.codes.extend(
                (0..frames).map(|f| (0..BOOKS).map(|book| rows[book * frames + f]).collect()),
            );
            life.audio.extend(audio);
        }
    }
    ended.extend(lives);
    for life in ended.iter().filter(|life| !life.pcm.is_empty()) {
        let frames = life.codes.len();
        longest = longest.max(frames);
        let alone = latents(&model, &life.pcm, 1, Window::Streaming);
        assert!(largest(&alone, &life.latents) < TOLERANCE);
        assert_eq!(
            quantize(&model, &alone, frames, 12),
            quantize(&model, &life.latents, frames, 12)
        );
        let codes: Vec<i32> = (0..BOOKS)
            .flat_map(|b| life.codes.iter().map(move |c| c[b]))
            .collect();
        let alone = audio(&model, &codes, BOOKS, 1, Window::Streaming);
        assert!(largest(&alone, &life.audio) < TOLERANCE);
    }
    // Rings of 16 steps must have wrapped, and there must have been restarts.
    assert!(longest > 24, "{longest}");
    assert!(ended.len() > 8);
}

/// A slot that has drowned in infinities is clean after a reset.
#[test]
fn reset_clears_infinities() {
    let (golden, model) = (Golden::open(), model());
    let pcm = &golden.pcm()[..10 * FRAME];
    let mut state = model.clone().state(2, Window::Whole).unwrap();
    let loud = vec![f32::INFINITY; 10 * FRAME];
    let mut out = vec![0.0; 10 * WIDTH];
    state.encode_latent(&[1], &loud, &mut out).unwrap();
    assert!(
        out.iter().any(|v| !v.is_finite()),
        "the test does not test anything"
    );
    state.reset(1).unwrap();
    let both = [pcm, pcm].concat();
    let mut got = vec![0.0; 2 * 10 * WIDTH];
    state.encode_latent(&[0, 1], &both, &mut got).unwrap();
    let wanted = latents(&model, pcm, 10, Window::Whole);
    assert!(largest(&got[..10 * WIDTH], &wanted) < TOLERANCE);
    assert!(largest(&got[10 * WIDTH..], &wanted) < TOLERANCE);
}

#[test]
fn state_size_follows_the_specification() {
    // docs/spec/mimi.md 5.2 for these widths, the spare ring row and 8 bytes of position apart.
    let model = model();
    let carries = |shape: &StateShape, rings: usize| {
        let state = DirectionState::new(shape, 3, model.device.candle()).unwrap();
        (state.bytes() - 3 * (rings + 8)) / 3
    };
    let rings = 2 * 2 * 4 * 17 * 8 * 4;
    let encoder = carries(&model.encoder_shape, rings);
    let filters = |c: usize| 4 * c;
    let convs: usize = [
        (1, 6),
        (4, 2),
        (4, 4),
        (8, 2),
        (8, 5),
        (16, 2),
        (16, 6),
        (32, 2),
        (32, 8),
    ]
    .iter()
    .map(|(c, p)| filters(c * p))
    .sum();
    assert_eq!(encoder, convs + filters(64 * 2) + filters(32 * 2));
    let decoder = carries(&model.decoder_shape, rings);
    let convs: usize = [
        (32, 6),
        (32, 8),
        (32, 2),
        (16, 6),
        (16, 2),
        (8, 5),
        (8, 2),
        (4, 4),
        (4, 2),
        (4, 2),
    ]
    .iter()
    .map(|(c, p)| filters(c * p))
    .sum();
    assert_eq!(decoder, convs + filters(32 * 2));
}

#[test]
fn bf16_weights_stay_close() {
    let (golden, exact, rounded) = (Golden::open(), model(), load(WeightType::Bf16));
    let pcm = golden.pcm();
    let a = latents(&exact, &pcm, 55, Window::Whole);
    let b = latents(&rounded, &pcm, 55, Window::Whole);
    let power = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let noise: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let ratio = power(&noise) / power(&a);
    assert!(ratio > 1e-4 && ratio < 3e-2, "{ratio}");
    // The quantiser is not rounded.
    let codes = |m: &CandleMimi| quantize(m, &a, 55, 12);
    assert_eq!(codes(&exact), codes(&rounded));
}

/// Of equal codebook vectors the first is chosen.
#[test]
fn ties_go_to_the_lower_code() {
    let mut parts = golden_parts();
    for part in &mut parts {
        if part.name.ends_with("embedding_sum") || part.name.ends_with("cluster_usage") {
            let half = part.bytes.len() / 2;
            let (low, high) = part.bytes.split_at_mut(half);
            high.copy_from_slice(low);
        }
    }
    let config = golden_config();
    let mut tensors = MimiTensors::from_file(file(&parts), &config).unwrap();
    let model = CandleMimi::load(
        &mut tensors,
        &config,
        WeightType::F32,
        Device::CandleCpu.open().unwrap(),
    )
    .unwrap();
    let x = transpose(&Golden::open().floats("latent"), 55);
    let codes = quantize(&model, &x, 55, 12);
    assert!(codes.iter().all(|code| *code < 32));
    assert!(codes.iter().any(|code| *code > 16));
}

/// Linears around the transformers, with the golden weights cut to half the width. There is no
/// reference output for this; the two linears are told apart by what doubling them does.
#[test]
fn input_and_output_projections() {
    let mut config = golden_config();
    config.transformer.d_model = 16;
    config.transformer.num_heads = 2;
    let mut parts = golden_parts();
    for part in parts
        .iter_mut()
        .filter(|p| p.name.contains("_transformer."))
    {
        let narrow = |n: usize| match n {
            32 => 16,
            96 => 48,
            n => n,
        };
        part.shape = part.shape.iter().map(|n| narrow(*n)).collect();
        part.bytes
            .truncate(4 * part.shape.iter().product::<usize>());
    }
    let run = |front: f32, behind: f32| {
        let mut parts = parts.clone();
        for side in ["encoder", "decoder"] {
            let eye = |rows: usize, columns: usize, value: f32| -> Vec<f32> {
                (0..rows * columns)
                    .map(|i| {
                        if i / columns == i % columns {
                            value
                        } else {
                            0.0
                        }
                    })
                    .collect()
            };
            let name = format!("{side}_transformer.input_proj.weight");
            parts.push(Part::f32(&name, &[16, 32], &eye(16, 32, front)));
            let name = format!("{side}_transformer.output_projs.0.weight");
            parts.push(Part::f32(&name, &[32, 16], &eye(32, 16, behind)));
        }
        let mut tensors = MimiTensors::from_file(file(&parts), &config).unwrap();
        let model = CandleMimi::load(
            &mut tensors,
            &config,
            WeightType::F32,
            Device::CandleCpu.open().unwrap(),
        )
        .unwrap();
        tensors.finish().unwrap();
        latents(
            &Arc::new(model),
            &Golden::open().pcm()[..20 * FRAME],
            3,
            Window::Streaming,
        )
    };
    let base = run(1.0, 1.0);
    // Behind is linear: doubling it doubles the result. In front it is not.
    let doubled: Vec<f32> = base.iter().map(|v| 2.0 * v).collect();
    assert!(largest(&run(1.0, 2.0), &doubled) < 1e-5);
    assert!(largest(&run(2.0, 1.0), &doubled) > 1e-2);
    assert!(largest(&run(1.0, 0.0), &vec![0.0; base.len()]) == 0.0);
}

/// Codes are those of the latents, in the order that callers want; long calls are cut.
#[test]
fn codes_are_of_the_latents() {
    let (golden, model) = (Golden::open(), model());
    let pcm = [&golden.pcm()[..], &golden.pcm()].concat();
    let mut state = model.clone().state(3, Window::Whole).unwrap();
    let mut codes = vec![-1; 2 * 8 * 55];
    state.encode(&[0, 2], &pcm, 8, &mut codes).unwrap();
    assert_eq!(
        codes,
        [golden.codes("codes"), golden.codes("codes")].concat()
    );
}

/// A refused call leaves the stream as it was.
#[test]
fn wrong_arguments_change_nothing() {
    let golden = Golden::open();
    let path = support::golden("mimi.safetensors");
    let (device, dtype) = (Device::CandleCpu, WeightType::F32);
    let mimi = Mimi::load(&path, golden_config(), 8, device, dtype).unwrap();
    let mut stream = mimi.stream(1, Window::Streaming).unwrap();
    let codes = golden.codes("codes");
    let good = cut(&codes, 55, 0, 20);
    let mut bad = good.clone();
    bad[47] = 64;
    let mut decode =
        |codes: &[i32], books, active: &[bool]| stream.decode(codes, books, Some(active));
    let error = decode(&bad, 8, &[true]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::CodeRange {
                row: 0,
                codebook: 2,
                frame: 7,
                value: 64,
                ..
            }
        ),
        "{error}"
    );
    let error = decode(&good[..157], 8, &[true]).unwrap_err();
    assert!(
        matches!(error, Error::Shape { what: "codes", .. }),
        "{error}"
    );
    let error = decode(&good, 8, &[true, true]).unwrap_err();
    assert!(
        matches!(error, Error::Shape { what: "active", .. }),
        "{error}"
    );
    let error = decode(&good, 0, &[true]).unwrap_err();
    assert!(matches!(error, Error::CodebookCount { .. }), "{error}");
    let error = decode(&good, 13, &[true]).unwrap_err();
    assert!(
        matches!(error, Error::CodebookCount { got: 13, max: 12 }),
        "{error}"
    );
    let got = decode(&good, 8, &[true]).unwrap();
    assert!(largest(&got, &golden.floats("stream_decoded")[..20 * FRAME]) < TOLERANCE);
    assert!(matches!(
        stream.reset(Some(&[1])).unwrap_err(),
        Error::SlotIndex { got: 1, slots: 1 }
    ));
}

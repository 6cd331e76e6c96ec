//! How tensors are held: tables in every encoding, merged ones, damaged ones, and what loading
//! tells.

use std::ops::ControlFlow;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::super::reblock;
use super::super::weights::Loader;
use super::fixtures::{Held, Tensors, gguf, layout_a};
use super::{CandleLm, EXACT, load, with};
use crate::checkpoint::{Encoding, RawRows, ggml};
use crate::device;
use crate::error::{Error, Result};
use crate::lm::backend::table::Table;

const ROWS: usize = 5;
const COLS: usize = 64;

fn numbers() -> Vec<f32> {
    (0..ROWS * COLS)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
        .collect()
}

/// The table in every encoding, and what its rows are by the formula of the encoding.
fn tables() -> Vec<(Encoding, Held)> {
    let mut made = vec![(Encoding::F32, Held::f32(ROWS, numbers()))];
    let mut add = |encoding, values, raw| {
        let mut held = Held::new(ROWS, values, encoding, Vec::new());
        held.raw = raw;
        made.push((encoding, held));
    };
    let data = |data| RawRows {
        data,
        ..RawRows::default()
    };
    let halves: Vec<f16> = numbers().into_iter().map(f16::from_f32).collect();
    let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    let values = halves.iter().map(|h| h.to_f32()).collect();
    add(Encoding::F16, values, data(bytes));
    let halves: Vec<bf16> = numbers().into_iter().map(bf16::from_f32).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    let values: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
    add(Encoding::Bf16, values.clone(), data(bytes.clone()));
    add(Encoding::Ggml(GgmlDType::BF16), values, data(bytes));

    // Blocks by hand: scales of whole numbers, so that f16 holds them exactly.
    let (mut eight, mut four, mut four_min) = (Vec::new(), Vec::new(), Vec::new());
    let (mut eight_is, mut four_is, mut four_min_is) = (Vec::new(), Vec::new(), Vec::new());
    for block in 0..ROWS * COLS / 32 {
        let (d, m) = (1.0 + block as f32, -3.0 * block as f32);
        let q = |i: usize| ((i * 7 + block) % 16) as u8;
        let head = f16::from_f32(d).to_le_bytes();
        eight.extend(head);
        eight.extend((0..32).map(|i| (i as i8 - 16) as u8));
        eight_is.extend((0..32).map(|i| d * (i as f32 - 16.0)));
        let nibbles: Vec<u8> = (0..16).map(|i| q(i) | q(i + 16) << 4).collect();
        four.extend(head);
        four.extend(&nibbles);
        four_is.extend((0..32).map(|i| d * (f32::from(q(i)) - 8.0)));
        four_min.extend(head);
        four_min.extend(f16::from_f32(m).to_le_bytes());
        four_min.extend(&nibbles);
        four_min_is.extend((0..32).map(|i| d * f32::from(q(i)) + m));
    }
    add(Encoding::Q8_0, eight_is, data(eight));
    add(Encoding::Q4_0, four_is, data(four));
    add(Encoding::Q4_1, four_min_is, data(four_min));

    let scales: Vec<f32> = (0..ROWS).map(|r| 0.3 * r as f32).collect();
    let ints: Vec<i8> = (0..ROWS * COLS)
        .map(|i| (i * 5 % 255) as u8 as i8)
        .collect();
    let value = |(i, q): (usize, &i8)| f32::from(*q) * scales[i / COLS] / 127.0;
    let raw = RawRows {
        data: ints.iter().map(|q| *q as u8).collect(),
        scales: scales.iter().flat_map(|s| s.to_le_bytes()).collect(),
        biases: Vec::new(),
    };
    add(
        Encoding::Int8Rows,
        ints.iter().enumerate().map(value).collect(),
        raw,
    );

    for (bits, group) in [(4u8, 32), (8, 64)] {
        let q = |i: usize| (i * 11 % (1 << bits)) as u32;
        let per_word = 32 / usize::from(bits);
        let words = (0..ROWS * COLS / per_word).map(|w| {
            (0..per_word).fold(0, |word, n| {
                word | q(w * per_word + n) << (n * usize::from(bits))
            })
        });
        // Scales may be negative.
        let scale = |g: usize| bf16::from_f32(0.5 - g as f32 / 8.0);
        let bias = |g: usize| bf16::from_f32(g as f32 - 2.0);
        let groups = 0..ROWS * COLS / group;
        let raw = RawRows {
            data: words.flat_map(u32::to_le_bytes).collect(),
            scales: groups
                .clone()
                .flat_map(|g| scale(g).to_le_bytes())
                .collect(),
            biases: groups.flat_map(|g| bias(g).to_le_bytes()).collect(),
        };
        let values = (0..ROWS * COLS)
            .map(|i| scale(i / group).to_f32() * q(i) as f32 + bias(i / group).to_f32());
        add(Encoding::Affine { bits, group }, values.collect(), raw);
    }
    made
}

fn load_table(held: &Held) -> Result<Table> {
    let mut tensors = layout_a("moshi_small");
    tensors.held.insert("table".into(), held.clone());
    let mut go_on = |_, _| ControlFlow::Continue(());
    let device = Device::Cpu;
    let mut loader = Loader::new(&tensors, &device, None, &mut go_on)?;
    loader.table("table")
}

#[test]
fn table_rows_are_what_their_encoding_says() {
    for (encoding, held) in tables() {
        let table = load_table(&held).unwrap();
        for id in 0..ROWS {
            let mut row = vec![1.0; COLS];
            table.add_row(id as i32, &mut row).unwrap();
            for (made, wanted) in row.iter().zip(&held.values[id * COLS..]) {
                assert!(
                    (made - 1.0 - wanted).abs() < 1e-4,
                    "{encoding:?}: {made} {wanted}"
                );
            }
        }
        let mut row = vec![1.0; COLS];
        table.add_row(-1, &mut row).unwrap();
        assert_eq!(row, [1.0; COLS]);
        for id in [-2, ROWS as i32, i32::MIN, i32::MAX] {
            let error = table.add_row(id, &mut row).unwrap_err();
            assert!(matches!(error, Error::CodeRange { .. }), "{error}");
        }
        // One that an adapter replaced: its raw rows are not its values.
        let mut merged = held.clone();
        merged.info.merged = true;
        merged.values.iter_mut().for_each(|v| *v += 0.25);
        let table = load_table(&merged).unwrap();
        let mut row = vec![0.0; COLS];
        table.add_row(1, &mut row).unwrap();
        assert_eq!(row, merged.values[COLS..2 * COLS]);
    }
}

/// What blocks, factors and addends stand for together are the file's values, to the last digits
/// of f32.
#[test]
fn integers_in_blocks_are_the_files_values() {
    let mut cases: Vec<(Encoding, Held)> = tables();
    cases.retain(|(encoding, held)| {
        let kind = reblock::kind(&held.info);
        let foreign = matches!(encoding, Encoding::Int8Rows | Encoding::Affine { .. });
        assert_eq!(kind.is_some(), foreign, "{encoding:?}");
        foreign
    });
    // Scales and addends of the sizes and signs that MLX writes, and of ranges it would not.
    for (bits, group, spread) in [
        (4u8, 32usize, 1e-3f32),
        (4, 64, 1e4),
        (8, 32, 1e-5),
        (8, 64, 3e3),
    ] {
        let groups = ROWS * COLS / group;
        let number = |i: usize, sign: f32| {
            bf16::from_f32(sign * spread * (1.0 + (i * 29 % 31) as f32) / (1 << (i % 6)) as f32)
        };
        let scales: Vec<bf16> = (0..groups)
            .map(|g| number(g, if g % 3 == 0 { 1.0 } else { -1.0 }))
            .collect();
        let biases: Vec<bf16> = (0..groups).map(|g| number(g + 3, -9.0)).collect();
        let data: Vec<u8> = (0..ROWS * COLS * usize::from(bits) / 8)
            .map(|i| (i * 83 % 256) as u8)
            .collect();
        let q = |i: usize| match bits {
            8 => data[i],
            _ => data[i / 2] >> (4 * (i % 2)) & 15,
        };
        let values = (0..ROWS * COLS)
            .map(|i| scales[i / group].to_f32() * f32::from(q(i)) + biases[i / group].to_f32())
            .collect();
        let bytes = |halves: &[bf16]| halves.iter().flat_map(|h| h.to_le_bytes()).collect();
        let encoding = Encoding::Affine { bits, group };
        let mut held = Held::new(ROWS, values, encoding, Vec::new());
        held.raw = RawRows {
            scales: bytes(&scales),
            biases: bytes(&biases),
            data,
        };
        cases.push((encoding, held));
    }
    assert_eq!(cases.len(), 7);
    for (encoding, held) in cases {
        let kind = reblock::kind(&held.info).unwrap();
        let made = reblock::reblock(&held.info, &held.raw);
        let blocks = ggml::blocks(&made.blocks, kind, (ROWS, COLS), &Device::Cpu).unwrap();
        let inside = blocks.dequantize(&Device::Cpu).unwrap();
        let inside: Vec<f32> = inside.flatten_all().unwrap().to_vec1().unwrap();
        let groups = made.addends.len() / ROWS;
        let largest = held.values.iter().fold(0f32, |most, v| most.max(v.abs()));
        for (i, (inside, wanted)) in inside.iter().zip(&held.values).enumerate() {
            let addend = match groups {
                0 => 0.0,
                _ => made.addends[i / (COLS / groups)],
            };
            let got = inside * made.factors[i / COLS] + addend;
            assert!(
                (got - wanted).abs() <= 3e-7 * largest,
                "{encoding:?} {i}: {got} {wanted}"
            );
        }
        let mut merged = held.info.clone();
        merged.merged = true;
        assert_eq!(reblock::kind(&merged), None);
    }
}

/// Raw rows are not taken at their word: a scale that is no number is found, a short read too.
#[test]
fn damaged_rows_are_refused() {
    for (encoding, held) in tables() {
        let mut bad = held.clone();
        let parts = [&mut bad.raw.scales, &mut bad.raw.data];
        let [scales, data] = parts;
        let place = if scales.is_empty() { data } else { scales };
        // Infinity or NaN in f32, f16 and bf16 alike.
        place[..4].fill(0xff);
        bad.values[0] = f32::NAN;
        let error = load_table(&bad).err().unwrap();
        assert!(
            matches!(error, Error::TensorNotFinite { .. }),
            "{encoding:?}: {error}"
        );
        let mut short = held.clone();
        short.raw.data.truncate(short.raw.data.len() - ROWS);
        assert!(load_table(&short).is_err(), "{encoding:?}");
    }
}

#[test]
fn blocks_need_not_be_aligned() {
    let (_, held) = tables()
        .into_iter()
        .find(|(e, _)| *e == Encoding::Q8_0)
        .unwrap();
    for shift in 0..8 {
        let mut bytes = vec![0; shift];
        bytes.extend(&held.raw.data);
        let made = ggml::blocks(&bytes[shift..], GgmlDType::Q8_0, (ROWS, COLS), &Device::Cpu);
        let made = made.unwrap().dequantize(&Device::Cpu).unwrap();
        assert_eq!(
            made.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            held.values
        );
    }
}

/// Matrices that an adapter changed are quantised again, not taken from the file.
#[test]
fn merged_blocks() {
    let tensors = gguf("formats/candle_q8", "model.q8.gguf");
    let name = "text_linear.weight";
    let mut merged = tensors.clone();
    let held = merged.held.get_mut(name).unwrap();
    held.info.merged = true;
    held.values.iter_mut().for_each(|v| *v *= -1.0);
    let logits = |tensors: &Tensors| {
        let model = load(tensors, with(None));
        super::conversations::solo(&model, &[vec![0; 8]])
            .remove(0)
            .text_logits
    };
    let (plain, merged) = (logits(&tensors), logits(&merged));
    for (a, b) in plain.iter().zip(&merged) {
        assert!((a + b).abs() < 1e-2 * (1.0 + a.abs()), "{a} {b}");
    }
}

#[test]
fn loading_reports_and_stops() {
    let tensors = layout_a("moshi_small");
    let total: usize = tensors.held.values().map(|h| h.values.len()).sum();
    let mut calls = Vec::new();
    let mut report = |done, all| {
        calls.push((done, all));
        ControlFlow::Continue(())
    };
    CandleLm::load(&tensors, device::Device::CandleCpu, &EXACT, &mut report).unwrap();
    assert_eq!(calls.len(), tensors.held.len() + 1);
    assert!(calls.is_sorted() && calls.iter().all(|(_, all)| *all == total as u64));
    assert_eq!(calls.last(), Some(&(total as u64, total as u64)));
    let mut left = 3;
    let mut stop = |_, _| {
        left -= 1;
        if left > 0 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let stopped = CandleLm::load(&tensors, device::Device::CandleCpu, &EXACT, &mut stop);
    assert!(matches!(stopped.err(), Some(Error::Interrupted)));
    assert_eq!(left, 0);
}

#[test]
fn a_device_that_is_not_there() {
    let tensors = layout_a("moshi_small");
    let mut go_on = |_, _| ControlFlow::Continue(());
    let error = CandleLm::load(&tensors, device::Device::Cuda(99), &EXACT, &mut go_on);
    assert!(matches!(error.err(), Some(Error::DeviceUnavailable { .. })));
}

#[test]
fn slots_have_a_limit() {
    use crate::lm::backend::LmBackend;
    let model = load(&layout_a("moshi_small"), EXACT);
    let error = model.state(1 << 40).err().unwrap();
    assert!(matches!(error, Error::OptionValue { name: "slots", .. }));
}

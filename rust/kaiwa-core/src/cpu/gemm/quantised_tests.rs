//! Products with integer weights against double precision on what the weights stand for.

use super::{Out, Rows, matmul};
use crate::checkpoint::{Encoding, RawRows};
use crate::cpu::pack::{Packed, Packer, WeightBits};
use crate::cpu::{Arena, Isa};

pub(super) fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    }
}

/// Random rows of an encoding, and their values by its own formula.
fn random(encoding: Encoding, n: usize, k: usize) -> (RawRows, Vec<f64>) {
    let mut next = noise(7);
    let mut raw = RawRows::default();
    let mut values = vec![0f64; n * k];
    let f16 = |v: f32| half::f16::from_f32(v);
    let bf = |v: f32| half::bf16::from_f32(v);
    for o in 0..n {
        let row = &mut values[o * k..][..k];
        match encoding {
            Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q4_1 => {
                for block in row.chunks_exact_mut(32) {
                    let d = f16(0.001 + (next() % 100) as f32 * 1e-4);
                    raw.data.extend(d.to_le_bytes());
                    let m = f16(-0.01 - (next() % 100) as f32 * 1e-4);
                    let d = d.to_f64();
                    if encoding == Encoding::Q8_0 {
                        for v in block.iter_mut() {
                            let q = next() as u8;
                            raw.data.push(q);
                            *v = d * f64::from(q as i8);
                        }
                        continue;
                    }
                    let four_one = encoding == Encoding::Q4_1;
                    if four_one {
                        raw.data.extend(m.to_le_bytes());
                    }
                    let value = |q: u8| match four_one {
                        true => d * f64::from(q) + m.to_f64(),
                        false => d * (f64::from(q) - 8.0),
                    };
                    for i in 0..16 {
                        let byte = next() as u8;
                        raw.data.push(byte);
                        block[i] = value(byte & 15);
                        block[i + 16] = value(byte >> 4);
                    }
                }
            }
            Encoding::Int8Rows => {
                let scale = 0.1 + (next() % 100) as f32 * 1e-2;
                raw.scales.extend(scale.to_le_bytes());
                for v in row {
                    let q = (next() % 255) as i64 - 127;
                    raw.data.push(q as u8);
                    *v = q as f64 * f64::from(scale) / 127.0;
                }
            }
            Encoding::Affine { bits, group } => {
                for part in row.chunks_exact_mut(group) {
                    let s = bf((next() % 200) as f32 * 1e-4 - 0.01);
                    let b = bf((next() % 200) as f32 * 1e-3 - 0.1);
                    raw.scales.extend(s.to_le_bytes());
                    raw.biases.extend(b.to_le_bytes());
                    for pair in part.chunks_exact_mut(2) {
                        let q = [next() as u8, next() as u8].map(|q| match bits {
                            8 => q,
                            _ => q & 15,
                        });
                        for (v, q) in pair.iter_mut().zip(q) {
                            *v = s.to_f64() * f64::from(q) + b.to_f64();
                        }
                        match bits {
                            8 => raw.data.extend(q),
                            _ => raw.data.push(q[0] | q[1] << 4),
                        }
                    }
                }
            }
            _ => unreachable!(),
        }
    }
    (raw, values)
}

fn packed(isa: Isa, encoding: Encoding, n: usize, k: usize, raw: &RawRows) -> Packed {
    let mut packer = Packer {
        arena: Arena::default(),
        isa,
        bits: WeightBits::F32,
    };
    let part = |bytes: &[u8], rows: &std::ops::Range<usize>| {
        let each = bytes.len() / n;
        bytes[rows.start * each..rows.end * each].to_vec()
    };
    packer
        .stream(n, k, encoding, &|rows, into| {
            into.data = part(&raw.data, &rows);
            into.scales = part(&raw.scales, &rows);
            into.biases = part(&raw.biases, &rows);
            Ok(())
        })
        .unwrap()
}

const ENCODINGS: [Encoding; 8] = [
    Encoding::Q8_0,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Int8Rows,
    Encoding::Affine { bits: 8, group: 64 },
    Encoding::Affine { bits: 4, group: 32 },
    // Less than a vector of activations.
    Encoding::Affine { bits: 8, group: 8 },
    Encoding::Affine {
        bits: 8,
        group: 128,
    },
];

#[test]
fn products_equal_double_precision_on_the_dequantised_weights() {
    for encoding in ENCODINGS {
        for (n, k, rows) in [
            (40, 128, 1),
            (97, 384, 11),
            (32, 256, 3),
            (64, 2176, 8),
            (20, 640, 29),
        ] {
            let (raw, values) = random(encoding, n, k);
            let mut next = noise(3);
            let a: Vec<f32> = (0..rows * k)
                .map(|i| ((next() % 2001) as f32 / 1000.0 - 1.0) * (1.0 + (i / 50) as f32))
                .collect();
            let mut results: Vec<Vec<f32>> = Vec::new();
            for isa in Isa::available() {
                let w = packed(isa, encoding, n, k, &raw);
                for (o, i) in [(0, 0), (n - 1, k - 1), (n / 2, 37), (3, 2), (33 % n, 1)] {
                    let got = f64::from(w.get(o, i));
                    assert!(
                        (got - values[o * k + i]).abs() < 1e-6,
                        "{encoding:?} {o} {i}"
                    );
                }
                let mut out = vec![0f32; rows * n];
                let to = Out::raw(&mut out, Rows::packed(rows, n));
                matmul(&w, &a, Rows::packed(rows, k), rows, to);
                for m in 0..rows {
                    // Each row alone gives the same bits.
                    let mut one = vec![0f32; n];
                    let to = Out::raw(&mut one, Rows::packed(1, n));
                    matmul(&w, &a[m * k..][..k], Rows::packed(1, k), 1, to);
                    assert_eq!(one, out[m * n..][..n], "{isa:?} {encoding:?}");
                    for o in 0..n {
                        let (mut sum, mut size) = (0f64, 0f64);
                        for i in 0..k {
                            let p = f64::from(a[m * k + i]) * values[o * k + i];
                            sum += p;
                            size += p.abs();
                        }
                        let error = (f64::from(one[o]) - sum).abs();
                        assert!(error < 3e-5 * size, "{isa:?} {encoding:?} {error} {size}");
                    }
                }
                results.push(out);
            }
            let fused: Vec<_> = results.iter().take(results.len() - 1).collect();
            assert!(
                fused.windows(2).all(|w| w[0] == w[1]),
                "{encoding:?}: sets differ"
            );
        }
    }
}

#[test]
fn zeros_and_tiny_values_stay_finite() {
    let (raw, _) = random(Encoding::Q8_0, 32, 64);
    for isa in Isa::available() {
        let w = packed(isa, Encoding::Q8_0, 32, 64, &raw);
        for value in [0.0, 1e-44, 1e-38, 1e30] {
            let a = vec![value; 64];
            let mut out = vec![f32::NAN; 32];
            let to = Out::raw(&mut out, Rows::packed(1, 32));
            matmul(&w, &a, Rows::packed(1, 64), 1, to);
            assert!(out.iter().all(|v| v.is_finite()), "{value}");
        }
    }
}

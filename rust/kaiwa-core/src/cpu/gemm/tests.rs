//! Products with float weights against plain loops.

use super::*;
use crate::cpu::pack::Taps;
use crate::cpu::{Arena, Isa, Packer};

fn packer(isa: Isa, bits: WeightBits) -> Packer {
    Packer {
        arena: Arena::default(),
        isa,
        bits,
    }
}

/// Numbers without pattern, reproducible.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).max(1);
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            s as f32 / u32::MAX as f32 * 2.0 - 1.0
        })
        .collect()
}

/// Every shape of use against a plain double-precision loop, for every instruction set.
#[test]
fn equals_a_plain_loop() {
    for isa in Isa::available() {
        for (rows, per_slot, n, taps, run, stride, dilation) in [
            (1, 1, 1, 1, 5, 5, 1),
            (2, 2, 33, 1, 64, 64, 1),
            (12, 4, 32, 3, 16, 16, 1),
            (26, 13, 70, 3, 8, 8, 2),
            (17, 17, 3, 3, 20, 20, 2),
            (300, 150, 64, 7, 1, 1, 1),
            (16, 2, 2048, 1, 256, 256, 1),
        ] {
            let slots = rows / per_slot;
            let tap_stride = run * dilation;
            let span = (taps - 1) * tap_stride + run;
            let slot_stride = (per_slot - 1) * stride + span;
            let a = noise(slots * slot_stride, 1);
            let w = noise(n * taps * run, 2);
            let bias = noise(n, 3);
            let mut scale = noise(n, 4);
            scale.resize(n.next_multiple_of(64), 0.0);
            let residual = noise(rows * n, 5);
            let a_rows = Rows {
                offset: 0,
                per_slot,
                slot_stride,
                row_stride: stride,
            };
            let packed = packer(isa, WeightBits::F32).pack(
                n,
                Taps {
                    taps,
                    run,
                    stride: tap_stride,
                },
                Some(&bias),
                |o, i| w[o * taps * run + i],
            );
            let mut raw = vec![0.0; rows * n];
            let mut act = vec![0.0; rows * n];
            let out = Rows::packed(per_slot, n);
            matmul(
                &packed,
                &a,
                a_rows,
                rows,
                Out {
                    scale: Some(&scale),
                    residual: Residual::Add(&residual, out),
                    raw: Some((&mut raw, out)),
                    activation: Activation::Elu,
                    activated: Some((&mut act, out)),
                },
            );
            for m in 0..rows {
                for o in 0..n {
                    let mut sum = 0f64;
                    for t in 0..taps {
                        for i in 0..run {
                            sum += f64::from(a[a_rows.at(m) + t * tap_stride + i])
                                * f64::from(w[(o * taps + t) * run + i]);
                        }
                    }
                    let y = (sum + f64::from(bias[o])) * f64::from(scale[o])
                        + f64::from(residual[m * n + o]);
                    let e = if y > 0.0 { y } else { y.exp_m1() };
                    let tol = 1e-6 * ((taps * run) as f64).sqrt().max(4.0);
                    assert!(
                        (f64::from(raw[m * n + o]) - y).abs() < tol,
                        "{isa:?} {m} {o}"
                    );
                    assert!(
                        (f64::from(act[m * n + o]) - e).abs() < tol,
                        "{isa:?} {m} {o}"
                    );
                    assert_eq!(packed.get(o, 0), w[o * taps * run]);
                }
            }
        }
    }
}

/// A row's bits do not depend on how many rows are computed with it.
#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    for isa in Isa::available() {
        for bits in [WeightBits::F32, WeightBits::Bf16] {
            let (rows, n, k) = (29, 96, 77);
            let (a, w) = (noise(rows * k, 7), noise(n * k, 8));
            let packed = packer(isa, bits).dense(n, k, &w);
            let mut all = vec![0.0; rows * n];
            let out = Rows::packed(rows, n);
            matmul(
                &packed,
                &a,
                Rows::packed(rows, k),
                rows,
                Out::raw(&mut all, out),
            );
            for m in 0..rows {
                let mut one = vec![0.0; n];
                let (ar, or) = (Rows::packed(1, k), Rows::packed(1, n));
                matmul(&packed, &a[m * k..], ar, 1, Out::raw(&mut one, or));
                assert_eq!(one, all[m * n..(m + 1) * n], "{isa:?} {bits:?} row {m}");
            }
        }
    }
}

/// bf16 weights are the rounded weights, multiplied exactly as f32.
#[test]
fn bf16_is_f32_on_rounded_weights() {
    for isa in Isa::available() {
        for n in [2, 40] {
            let k = 50;
            let (a, w) = (noise(3 * k, 9), noise(n * k, 10));
            let rounded: Vec<f32> = w
                .iter()
                .map(|&x| half::bf16::from_f32(x).to_f32())
                .collect();
            let (mut x, mut y) = (vec![0.0; 3 * n], vec![0.0; 3 * n]);
            let (ar, or) = (Rows::packed(3, k), Rows::packed(3, n));
            let narrow = packer(isa, WeightBits::Bf16).dense(n, k, &w);
            matmul(&narrow, &a, ar, 3, Out::raw(&mut x, or));
            let wide = packer(isa, WeightBits::F32).dense(n, k, &rounded);
            matmul(&wide, &a, ar, 3, Out::raw(&mut y, or));
            assert_eq!(x, y, "{isa:?}");
            assert_eq!(narrow.get(n - 1, k - 1), rounded[n * k - 1]);
        }
    }
}

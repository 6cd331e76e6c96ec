//! Norms against f64.

use super::super::args::{NormArgs, Pointer};
use super::super::sim::{Met, Options, Shape};
use super::{at, at_mut, noise, run, try_run};

struct Case {
    rows: usize,
    dim: usize,
    layer: bool,
    block: u32,
}

impl Case {
    fn input(&self) -> Vec<f32> {
        let mut x = noise(1, self.rows * self.dim);
        x.iter_mut().for_each(|v| *v = *v * 3.0 + 0.7);
        x
    }

    fn run(&self, x: &[f32], options: Options) -> (Vec<f32>, Met) {
        let (weight, bias) = (noise(2, self.dim), noise(3, self.dim));
        let mut out = vec![f32::NAN; x.len()];
        let args = NormArgs {
            x: at(x),
            weight: at(&weight),
            bias: if self.layer { at(&bias) } else { Pointer::NULL },
            out: at_mut(&mut out),
            dim: self.dim as i32,
            eps: 1e-5,
        };
        let shape = Shape {
            grid: [(x.len() / self.dim) as u32, 1, 1],
            block: self.block,
            shared: 0,
        };
        let met = run("kaiwa_norm", shape, &args, options);
        (out, met)
    }

    fn reference(&self, x: &[f32]) -> Vec<f64> {
        let (weight, bias) = (noise(2, self.dim), noise(3, self.dim));
        let n = self.dim as f64;
        let row = |x: &[f32]| -> Vec<f64> {
            let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let mean = if self.layer {
                x.iter().sum::<f64>() / n
            } else {
                0.0
            };
            let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (square + f64::from(1e-5f32)).sqrt();
            let add = |i: usize| if self.layer { f64::from(bias[i]) } else { 0.0 };
            let one = |(i, v): (usize, &f64)| (v - mean) * f64::from(weight[i]) * scale + add(i);
            x.iter().enumerate().map(one).collect()
        };
        x.chunks(self.dim).flat_map(row).collect()
    }
}

const CASES: [Case; 4] = [
    Case {
        rows: 3,
        dim: 64,
        layer: false,
        block: 128,
    },
    Case {
        rows: 2,
        dim: 1000,
        layer: false,
        block: 256,
    },
    Case {
        rows: 1,
        dim: 4096,
        layer: true,
        block: 1024,
    },
    Case {
        rows: 5,
        dim: 33,
        layer: true,
        block: 32,
    },
];

#[test]
fn norms_are_those_of_f64_in_both_orders() {
    for case in &CASES {
        let x = case.input();
        let (out, _) = case.run(&x, Options::FORWARD);
        for (made, wanted) in out.iter().zip(case.reference(&x)) {
            assert!((f64::from(*made) - wanted).abs() < 2e-6, "{made} {wanted}");
        }
        assert_eq!(case.run(&x, Options::BACKWARD).0, out);
        // A row alone has the same bits.
        let (alone, _) = case.run(&x[..case.dim], Options::FORWARD);
        assert_eq!(alone, out[..case.dim]);
    }
}

/// The control: without any one of its barriers, of block or warp, the result is another.
#[test]
fn a_missing_barrier_shows() {
    for case in &CASES[..3] {
        let x = case.input();
        let (out, met) = case.run(&x, Options::FORWARD);
        assert_eq!(met.block_barriers, if case.layer { 2 } else { 1 });
        let ways = (0..met.block_barriers)
            .map(|n| Options {
                skip_block_barrier: n,
                ..Options::FORWARD
            })
            .chain((0..met.warp_barriers).map(|n| Options {
                skip_warp_barrier: n,
                ..Options::FORWARD
            }));
        for options in ways {
            assert_ne!(case.run(&x, options).0, out, "{options:?}");
        }
    }
}

#[test]
fn what_no_card_takes_is_told() {
    let args = NormArgs {
        x: Pointer::NULL,
        weight: Pointer::NULL,
        bias: Pointer::NULL,
        out: Pointer::NULL,
        dim: 0,
        eps: 0.0,
    };
    let shape = Shape {
        grid: [1, 1, 1],
        block: 32,
        shared: 0,
    };
    for (name, shape, said) in [
        ("kaiwa_none", shape, "no kernel kaiwa_none"),
        (
            "kaiwa_norm",
            Shape {
                block: 2048,
                ..shape
            },
            "no card takes",
        ),
        (
            "kaiwa_norm",
            Shape {
                grid: [1, 0, 1],
                ..shape
            },
            "no card takes",
        ),
    ] {
        let error = try_run(name, shape, &args, Options::FORWARD).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

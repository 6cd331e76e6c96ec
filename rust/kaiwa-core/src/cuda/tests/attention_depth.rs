//! Attention of the depth transformer's sub-steps against f64.

use super::super::args::DepthAttentionArgs;
use super::super::attention::{depth_shape, score_scale};
use super::super::sim::Options;
use super::{at, at_mut, noise, run};

#[derive(Debug, Clone, Copy)]
struct Sizes {
    dim: usize,
    heads: usize,
    kv_heads: usize,
    steps: usize,
}

const SIZES: [Sizes; 4] = [
    Sizes {
        dim: 8,
        heads: 4,
        kv_heads: 4,
        steps: 8,
    },
    Sizes {
        dim: 16,
        heads: 4,
        kv_heads: 2,
        steps: 16,
    },
    Sizes {
        dim: 64,
        heads: 2,
        kv_heads: 2,
        steps: 8,
    },
    Sizes {
        dim: 36,
        heads: 3,
        kv_heads: 1,
        steps: 32,
    },
];

impl Sizes {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Outputs of all sub-steps, `[steps, rows, heads dim]`, of projections `[steps, rows, width]`.
    fn run(&self, rows: usize, qkv: &[f32], options: Options) -> Vec<f32> {
        let held = rows * self.kv_heads * self.steps * self.dim;
        let (mut keys, mut values) = (vec![f32::NAN; held], vec![f32::NAN; held]);
        let mut all = Vec::new();
        for (step, qkv) in qkv.chunks(rows * self.width()).enumerate() {
            let qkv = qkv.to_vec();
            let mut out = vec![f32::NAN; rows * self.heads * self.dim];
            let args = DepthAttentionArgs {
                qkv: at(&qkv),
                keys: at_mut(&mut keys),
                values: at_mut(&mut values),
                out: at_mut(&mut out),
                rows: rows as i32,
                heads: self.heads as i32,
                kv_heads: self.kv_heads as i32,
                dim: self.dim as i32,
                step: step as i32,
                steps: self.steps as i32,
                score_scale: score_scale(self.dim),
                padding: 0,
            };
            let shape = depth_shape(self.heads, rows);
            run("kaiwa_attention_depth", shape, &args, options);
            all.extend(out);
        }
        all
    }

    fn reference(
        &self,
        rows: usize,
        qkv: &[f32],
        step: usize,
        row: usize,
        head: usize,
    ) -> Vec<f64> {
        let part = |step: usize, first: usize| {
            let at = (step * rows + row) * self.width() + first * self.dim;
            qkv[at..at + self.dim].iter().map(|v| f64::from(*v))
        };
        let kv = head / (self.heads / self.kv_heads);
        let score = |j| {
            let products = part(step, head).zip(part(j, self.heads + kv));
            products.map(|(q, k)| q * k).sum::<f64>() / (self.dim as f64).sqrt()
        };
        let weights: Vec<f64> = (0..=step).map(|j| score(j).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0; self.dim];
        for (j, weight) in weights.iter().enumerate() {
            let value = part(j, self.heads + self.kv_heads + kv);
            out.iter_mut()
                .zip(value)
                .for_each(|(o, v)| *o += weight / total * v);
        }
        out
    }
}

#[test]
fn sub_steps_see_those_before_them() {
    for sizes in SIZES {
        for rows in [1, 5] {
            let qkv = noise(4, sizes.steps * rows * sizes.width());
            let out = sizes.run(rows, &qkv, Options::FORWARD);
            for (i, got) in out.chunks(sizes.dim).enumerate() {
                let (step, row) = (i / sizes.heads / rows, i / sizes.heads % rows);
                let wanted = sizes.reference(rows, &qkv, step, row, i % sizes.heads);
                for (wanted, got) in wanted.iter().zip(got) {
                    assert!(
                        (wanted - f64::from(*got)).abs() < 2e-6,
                        "{sizes:?} {step} {row}"
                    );
                }
            }
            assert_eq!(sizes.run(rows, &qkv, Options::BACKWARD), out);
            // The last row alone has the same bits.
            let one = |step: usize| (step * rows + rows - 1) * sizes.width();
            let steps = 0..sizes.steps;
            let alone: Vec<f32> = steps
                .flat_map(|s| qkv[one(s)..][..sizes.width()].to_vec())
                .collect();
            let alone = sizes.run(1, &alone, Options::FORWARD);
            let width = sizes.heads * sizes.dim;
            for (step, alone) in alone.chunks(width).enumerate() {
                assert_eq!(*alone, out[((step + 1) * rows - 1) * width..][..width]);
            }
        }
    }
}

/// Control: without a barrier of the warp the result is another.
#[test]
fn a_missing_exchange_shows() {
    let sizes = SIZES[3];
    let qkv = noise(4, sizes.steps * sizes.width());
    let out = sizes.run(1, &qkv, Options::FORWARD);
    for barrier in 0..10 {
        let options = Options {
            skip_warp_barrier: barrier,
            ..Options::FORWARD
        };
        assert_ne!(sizes.run(1, &qkv, options), out, "{barrier}");
    }
}

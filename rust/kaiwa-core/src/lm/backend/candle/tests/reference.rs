//! Every variant of a layer against a plain implementation of docs/spec/moshi.md 3 and 4: no cache,
//! no batch, f64.

use std::sync::Arc;

use super::super::state::CandleState;
use super::fixtures::Tensors;
use super::random_model::{BASE, Rng, Variant, config, tensors};
use super::{EXACT, load};
use crate::lm::backend::host_sampled::Transformers;
use crate::lm::{FeedForward, Norm, NormKind, Rope};

type Row = Vec<f64>;

/// The plain implementation.
struct Reference<'a>(&'a Tensors);

/// One of the two transformers.
struct Part<'a> {
    name: &'a str,
    layers: usize,
    heads: usize,
    kv_repeat: usize,
    /// Keys that a row sees.
    window: usize,
    /// Weight set of each row; none for the temporal transformer, whose rows also rotate.
    sets: Option<&'a [usize]>,
}

impl Reference<'_> {
    fn matmul(&self, name: &str, x: &[f64]) -> Row {
        let weights = self.0.values(&format!("{name}.weight"));
        let rows = weights.chunks_exact(x.len());
        rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
            .collect()
    }

    fn table(&self, name: &str, id: i32) -> Row {
        let held = &self.0.held[&format!("{name}.weight")];
        let cols = held.info.cols;
        match usize::try_from(id) {
            Err(_) => vec![0.0; cols],
            Ok(id) => held.values[id * cols..][..cols]
                .iter()
                .map(|v| f64::from(*v))
                .collect(),
        }
    }

    fn norm(&self, name: &str, norm: Norm, x: &[f64]) -> Row {
        let (n, eps) = (x.len() as f64, f64::from(norm.eps));
        let part = |part: &str| self.0.values(&format!("{name}.{part}")).iter();
        let mean = x.iter().sum::<f64>() / n;
        let square = |about: f64| x.iter().map(|v| (v - about).powi(2)).sum::<f64>() / n;
        let rms = |eps: f64| {
            let by = (square(0.0) + eps).sqrt();
            let pairs = x.iter().zip(part("alpha"));
            pairs.map(|(v, a)| v / by * f64::from(*a)).collect()
        };
        let layer = |eps: f64| {
            let by = (square(mean) + eps).sqrt();
            let pairs = x.iter().zip(part("weight").zip(part("bias")));
            pairs
                .map(|(v, (w, b))| (v - mean) / by * f64::from(*w) + f64::from(*b))
                .collect()
        };
        match norm.kind {
            NormKind::Rms => rms(eps),
            NormKind::Layer => layer(eps),
        }
    }

    fn rotate(&self, x: &mut [f64], position: usize) {
        let half = x.len() / 2;
        for i in 0..half {
            let (a, b) = match self.0.config.rope {
                Rope::Interleaved => (2 * i, 2 * i + 1),
                Rope::NeoX => (i, i + half),
            };
            let angle = position as f64 * self.0.config.max_period.powf(-(i as f64) / half as f64);
            let (sin, cos) = angle.sin_cos();
            (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
        }
    }

    /// All rows through all layers.
    fn transformer(&self, part: &Part<'_>, mut x: Vec<Row>) -> Vec<Row> {
        let config = &self.0.config;
        let scaled = |name: &str, x: &mut Row, branch: &[f64]| {
            let scale = self.0.held.get(&format!("{name}.scale"));
            for (i, (x, b)) in x.iter_mut().zip(branch).enumerate() {
                *x += b * scale.map_or(1.0, |s| f64::from(s.values[i]));
            }
        };
        for l in 0..part.layers {
            let name = format!("{}.layers.{l}", part.name);
            let set = |row: usize| part.sets.map_or(0, |sets| sets[row]);
            let dim = x[0].len();
            let width = dim / part.heads;
            let kv = part.heads / part.kv_repeat;
            // Heads of every row: queries, keys, values.
            let mut all: Vec<Vec<Row>> = Vec::new();
            for (row, x) in x.iter().enumerate() {
                let inner = self.norm(&format!("{name}.norm1"), config.norm, x);
                let made = self.matmul(&format!("{name}.self_attn.in_projs.{}", set(row)), &inner);
                let mut made: Vec<Row> = made.chunks_exact(width).map(<[f64]>::to_vec).collect();
                if part.sets.is_none() {
                    for head in &mut made[..part.heads + kv] {
                        self.rotate(head, row);
                    }
                }
                all.push(made);
            }
            for (row, x) in x.iter_mut().enumerate() {
                let mut heads = Vec::new();
                for h in 0..part.heads {
                    let seen = (row + 1).saturating_sub(part.window)..row + 1;
                    let (key, value) = (
                        part.heads + h / part.kv_repeat,
                        part.heads + kv + h / part.kv_repeat,
                    );
                    let dot = |t: usize| {
                        let pairs = all[row][h].iter().zip(&all[t][key]);
                        pairs.map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt()
                    };
                    let weights: Row = seen.clone().map(|t| dot(t).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    let mut out = vec![0.0; width];
                    for (w, other) in weights.iter().zip(&all[seen]) {
                        let values = out.iter_mut().zip(&other[value]);
                        values.for_each(|(out, v)| *out += w / sum * v);
                    }
                    heads.extend(out);
                }
                let branch =
                    self.matmul(&format!("{name}.self_attn.out_projs.{}", set(row)), &heads);
                scaled(&format!("{name}.layer_scale_1"), x, &branch);
                let inner = self.norm(&format!("{name}.norm2"), config.norm, x);
                let branch = match config.feed_forward {
                    FeedForward::SwiGlu => {
                        let index = part
                            .sets
                            .map_or(String::new(), |_| format!(".{}", set(row)));
                        let name = format!("{name}.gating{index}");
                        let u = self.matmul(&format!("{name}.linear_in"), &inner);
                        let (gate, up) = u.split_at(u.len() / 2);
                        let pairs = gate.iter().zip(up);
                        let inner: Row = pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                        self.matmul(&format!("{name}.linear_out"), &inner)
                    }
                    FeedForward::Gelu => {
                        let u = self.matmul(&format!("{name}.linear1"), &inner);
                        let inner: Row = u.iter().map(|v| gelu(*v)).collect();
                        self.matmul(&format!("{name}.linear2"), &inner)
                    }
                };
                scaled(&format!("{name}.layer_scale_2"), x, &branch);
            }
        }
        x
    }

    /// Outputs `z` of all steps.
    fn temporal(&self, tokens: &[Vec<i32>], condition: &[f32]) -> Vec<Row> {
        let config = &self.0.config;
        let part = Part {
            name: "transformer",
            layers: config.num_layers,
            heads: config.num_heads,
            kv_repeat: config.kv_repeat,
            window: config.context,
            sets: None,
        };
        let inputs = tokens.iter().map(|ids| {
            let mut x = self.table("text_emb", ids[0]);
            for (i, id) in ids[1..].iter().enumerate() {
                let row = self.table(&format!("emb.{i}"), *id);
                x.iter_mut().zip(row).for_each(|(x, v)| *x += v);
            }
            x.iter_mut()
                .zip(condition)
                .for_each(|(x, v)| *x += f64::from(*v));
            x
        });
        let out = self.transformer(&part, inputs.collect());
        out.iter()
            .map(|x| self.norm("out_norm", config.norm, x))
            .collect()
    }

    /// Logits of the sub-steps, led along `previous`.
    fn depth(&self, z: &[f64], previous: &[i32]) -> Vec<Row> {
        let depth = self.0.config.depth.as_ref().unwrap();
        let part = Part {
            name: "depformer",
            layers: depth.num_layers,
            heads: depth.num_heads,
            kv_repeat: depth.kv_repeat,
            window: usize::MAX,
            sets: Some(&depth.schedule),
        };
        let inputs = previous.iter().enumerate().map(|(k, id)| {
            let name = match k {
                0 => "depformer_text_emb".into(),
                _ => format!("depformer_emb.{}", k - 1),
            };
            let mut row = self.table(&name, *id);
            if depth.low_rank.is_some() {
                row = self.matmul(&format!("{name}.low_rank"), &row);
            }
            let x = self.matmul(&format!("depformer_in.{}", depth.schedule[k]), z);
            x.iter().zip(row).map(|(x, v)| x + v).collect()
        });
        let out = self.transformer(&part, inputs.collect());
        let heads = out.iter().enumerate().map(|(k, x)| {
            let x = match depth.final_norm {
                None => x.clone(),
                Some(kind) => self.norm(&format!("depformer_norms.{k}"), kind, x),
            };
            self.matmul(&format!("linears.{k}"), &x)
        });
        heads.collect()
    }
}

/// Exact GELU: `x / 2 (1 + erf(x / sqrt 2))`, erf by its series.
fn gelu(x: f64) -> f64 {
    let y = x / 2f64.sqrt();
    let (mut term, mut sum) = (y, y);
    for n in 1..200 {
        term *= -y * y / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    x / 2.0 * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}

#[track_caller]
fn close(what: &str, wanted: &[f64], made: &[f32]) {
    assert_eq!(wanted.len(), made.len());
    for (i, (wanted, made)) in wanted.iter().zip(made).enumerate() {
        let off = (wanted - f64::from(*made)).abs();
        assert!(
            off < 2e-5 * (1.0 + wanted.abs()),
            "{what}, {i}: {wanted} {made}"
        );
    }
}

/// Three slots, the outer ones active, past a full ring; -1 among the tokens; a condition.
fn check(variant: Variant) {
    let tensors = tensors(config(variant));
    let reference = Reference(&tensors);
    let model = load(&tensors, EXACT);
    let config = &model.config;
    let mut state = CandleState::new(Arc::clone(&model), 3).unwrap();
    let mut rng = Rng(11);
    let condition: Vec<f32> = (0..config.dim).map(|_| rng.number()).collect();
    let mut history = vec![Vec::new(); 2];
    for step in 0..2 * config.context + 3 {
        for tokens in &mut history {
            let id = |rng: &mut Rng, card| rng.below(card + 2) - 1;
            let mut ids = vec![id(&mut rng, config.text_card)];
            ids.extend((0..config.n_q).map(|_| id(&mut rng, config.card)));
            tokens.push(ids);
        }
        let inputs: Vec<i32> = history.iter().flat_map(|h| h[step].clone()).collect();
        let mut logits = vec![0.0; 2 * config.text_card_out];
        let conditions = condition.repeat(2);
        state
            .temporal(&[0, 2], &inputs, &conditions, &mut logits)
            .unwrap();
        let z: Vec<Row> = history
            .iter()
            .map(|h| reference.temporal(h, &condition).pop().unwrap())
            .collect();
        for (z, made) in z.iter().zip(logits.chunks(config.text_card_out)) {
            close(
                &format!("{variant:?}: text {step}"),
                &reference.matmul("text_linear", z),
                made,
            );
        }
        let previous: Vec<Vec<i32>> = (0..2)
            .map(|_| {
                (0..config.spoken)
                    .map(|_| rng.below(config.card + 1) - 1)
                    .collect()
            })
            .collect();
        let wanted: Vec<Vec<Row>> = (0..2)
            .map(|r| reference.depth(&z[r], &previous[r]))
            .collect();
        for k in 0..config.spoken {
            let mut logits = vec![0.0; 2 * config.card];
            let ids = [previous[0][k], previous[1][k]];
            state.depth(k, &ids, &mut logits).unwrap();
            for (wanted, made) in wanted.iter().zip(logits.chunks(config.card)) {
                close(
                    &format!("{variant:?}: step {step}, sub-step {k}"),
                    &wanted[k],
                    made,
                );
            }
        }
        // There is no sub-step after the last, and none is made twice.
        let mut logits = vec![0.0; 2 * config.card];
        assert!(state.depth(config.spoken, &[0, 0], &mut logits).is_err());
        assert!(state.depth(0, &[0, 0], &mut logits).is_err());
        state.advance(&[0, 2]);
    }
}

#[test]
fn the_base_variant() {
    check(BASE);
}

#[test]
fn norms() {
    for norm in [Norm::rms(1e-5), Norm::layer(1e-5), Norm::layer(1e-8)] {
        check(Variant { norm, ..BASE });
        let final_norm = Some(norm);
        check(Variant { final_norm, ..BASE });
    }
}

#[test]
fn feed_forward_without_a_gate() {
    let feed_forward = FeedForward::Gelu;
    check(Variant {
        feed_forward,
        ..BASE
    });
}

#[test]
fn rotation_of_halves() {
    let rope = Rope::NeoX;
    check(Variant { rope, ..BASE });
}

#[test]
fn grouped_keys() {
    for kv_repeat in [2, 4] {
        check(Variant { kv_repeat, ..BASE });
    }
}

#[test]
fn everything_else_at_once() {
    check(Variant {
        norm: Norm::layer(1e-5),
        rope: Rope::NeoX,
        kv_repeat: 2,
        layer_scale: true,
        low_rank: Some(5),
        final_norm: Some(Norm::layer(1e-5)),
        ..BASE
    });
}

/// What is never run is not even loaded.
#[test]
fn sub_steps_that_are_not_spoken() {
    let variant = Variant { spoken: 2, ..BASE };
    check(variant);
    let mut tensors = tensors(config(variant));
    tensors.held.retain(|name, _| {
        let set = ["in_projs.2", "out_projs.2", "gating.2", "depformer_in.2"];
        let step = [
            "linears.2",
            "linears.3",
            "depformer_emb.1",
            "depformer_emb.2",
        ];
        !set.iter().chain(&step).any(|part| name.contains(part))
    });
    load(&tensors, EXACT);
}

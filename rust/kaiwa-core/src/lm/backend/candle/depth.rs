//! The depth transformer: the sub-steps of one frame (docs/spec/moshi.md 4).
//!
//! All rows are at the same sub-step, see every sub-step before it, and have no positions: so
//! there is neither mask nor ring nor rotation, and what is kept dies with the frame.

use candle_core::{Device, Tensor};

use super::heads::Heads;
use super::internal_error;
use super::layer::{Layer, Spec};
use super::linear::Linear;
use super::norm::Norm;
use super::weights::Loader;
use crate::error::Result;
use crate::lm::backend::table::Table;
use crate::lm::{DepthConfig, LmConfig};

/// What is particular to a sub-step.
struct SubStep {
    /// Weight set.
    set: usize,
    /// Of the token before it, `[card, dim]` or `[card, low rank]` with `[dim, low rank]` behind.
    table: Table,
    low_rank: Option<Linear>,
    norm: Option<Norm>,
    /// `[card, dim]`.
    head: Linear,
}

/// Weights of the depth transformer: those of the sub-steps that are run.
pub(super) struct Depth {
    /// One per weight set, `[dim, temporal dim]`.
    inputs: Vec<Linear>,
    layers: Vec<Layer>,
    steps: Vec<SubStep>,
    heads: Heads,
}

/// What a frame carries from one sub-step to the next.
pub(super) struct Frame {
    /// Output of the temporal transformer, `[rows, temporal dim]`.
    z: Tensor,
    /// Sub-steps made.
    done: usize,
    /// Keys and values of each layer, `[rows, kv heads, done, head dim]`.
    past: Vec<[Tensor; 2]>,
}

impl Frame {
    pub(super) fn new(z: Tensor) -> Self {
        Self {
            z,
            done: 0,
            past: Vec::new(),
        }
    }

    /// Output of the temporal transformer, `[rows, temporal dim]`.
    pub(super) fn z(&self) -> &Tensor {
        &self.z
    }
}

impl Depth {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        config: &LmConfig,
        depth: &DepthConfig,
    ) -> Result<Self> {
        // Weights of sub-steps that are never run are not loaded (docs/spec/moshi.md 9.5).
        let schedule: Vec<usize> = depth.schedule.iter().copied().take(config.spoken).collect();
        let sets = schedule.iter().max().map_or(0, |w| w + 1);
        let inputs = (0..sets).map(|w| loader.matrix(&format!("depformer_in.{w}.weight")));
        let inputs = inputs.collect::<Result<_>>()?;
        let spec = Spec {
            norm: config.norm,
            feed_forward: depth.feed_forward,
            layer_scale: depth.layer_scale,
            sets: Some(sets),
        };
        let layers = (0..depth.num_layers)
            .map(|l| Layer::load(loader, &format!("depformer.layers.{l}"), &spec));
        let layers = layers.collect::<Result<_>>()?;
        let mut steps = Vec::new();
        for (k, set) in schedule.into_iter().enumerate() {
            let table = match k.checked_sub(1) {
                None => "depformer_text_emb".to_owned(),
                Some(j) => format!("depformer_emb.{j}"),
            };
            let norm = depth
                .final_norm
                .map(|kind| Norm::load(loader, &format!("depformer_norms.{k}"), kind));
            let low_rank = depth
                .low_rank
                .map(|_| loader.matrix(&format!("{table}.low_rank.weight")));
            steps.push(SubStep {
                set,
                norm: norm.transpose()?,
                low_rank: low_rank.transpose()?,
                table: loader.table(&format!("{table}.weight"))?,
                head: loader.matrix(&format!("linears.{k}.weight"))?,
            });
        }
        Ok(Self {
            inputs,
            layers,
            steps,
            heads: Heads::new(depth.dim, depth.num_heads, depth.kv_repeat),
        })
    }

    /// Sub-step `k` of a frame: `[rows, card]` logits on the device. `previous` are the tokens
    /// chosen before it, or -1.
    ///
    /// The frame advances only if all went well, so a failed sub-step can be made again.
    pub(super) fn run(
        &self,
        k: usize,
        previous: &[i32],
        frame: &mut Frame,
        device: &Device,
    ) -> Result<Tensor> {
        let (Some(step), true) = (self.steps.get(k), k == frame.done) else {
            return Err(internal_error("the sub-steps of a frame go one by one"));
        };
        let input = self.inputs.get(step.set);
        let input = input.ok_or_else(|| internal_error("no such weight set"))?;
        let mut x = (input.forward(&frame.z)? + step.embed(previous, device)?)?;
        let mut past = Vec::with_capacity(self.layers.len());
        for (l, layer) in self.layers.iter().enumerate() {
            x = layer.run(step.set, &x, |all| {
                let Heads { count, kv, .. } = self.heads;
                let q = self.heads.part(all, 0, count)?;
                let mut k = self.heads.part(all, count, kv)?;
                let mut v = self.heads.part(all, count + kv, kv)?;
                if let Some([before_k, before_v]) = frame.past.get(l) {
                    k = Tensor::cat(&[before_k, &k], 2)?.contiguous()?;
                    v = Tensor::cat(&[before_v, &v], 2)?.contiguous()?;
                }
                let out = self.heads.attend(&q, &k, &v, None)?;
                past.push([k, v]);
                Ok(out)
            })?;
        }
        if let Some(norm) = &step.norm {
            x = norm.run(&x)?;
        }
        let logits = step.head.forward(&x)?;
        frame.past = past;
        frame.done += 1;
        Ok(logits)
    }
}

impl SubStep {
    /// Embeddings of the tokens before, `[rows, dim]`; zeros for -1.
    fn embed(&self, previous: &[i32], device: &Device) -> Result<Tensor> {
        let cols = self.table.cols();
        let mut rows = vec![0.0; previous.len() * cols];
        for (id, row) in previous.iter().zip(rows.chunks_exact_mut(cols.max(1))) {
            self.table.add_row(*id, row)?;
        }
        let rows = Tensor::from_vec(rows, (previous.len(), cols), device)?;
        match &self.low_rank {
            None => Ok(rows),
            Some(matrix) => matrix.forward(&rows),
        }
    }
}

//! The depth transformer: the sub-steps of one frame (docs/spec/moshi.md 4), in the same list of
//! launches, each with its draw.

use std::sync::Arc;

use super::draw::sample;
use super::io::Layout;
use super::layer::{Layer, Spec};
use super::load::Loader;
use super::matrix::{Matrix, Then};
use super::norm::Norm;
use super::tables::Tables;
use super::unsupported;
use super::workspace::{Activations, Needs, Widths};
use crate::cuda::args::{DepthAttentionArgs, Pointer};
use crate::cuda::attention;
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Node;
use crate::error::Result;
use crate::lm::{DepthConfig, LmConfig};

/// What is particular to a sub-step.
struct SubStep {
    /// Weight set.
    set: usize,
    /// Of the token before it.
    table: Tables,
    low_rank: Option<Matrix>,
    norm: Option<Norm>,
    /// `[card, dim]`.
    head: Matrix,
}

/// Weights of the depth transformer: those of the sub-steps that are run.
pub(super) struct Depth {
    dim: usize,
    heads: usize,
    kv_heads: usize,
    /// One per weight set, `[dim, temporal dim]`.
    inputs: Vec<Matrix>,
    layers: Vec<Layer>,
    steps: Vec<SubStep>,
}

/// Memory of its activations, and its keys and values, which die with the frame.
pub(super) struct DepthWork {
    x: Memory,
    low: Memory,
    /// Per layer, `[rows, kv heads, sub-steps, head dim]` each.
    past: Vec<(Memory, Memory)>,
    /// Per sub-step, `[rows, card]`.
    pub logits: Vec<Memory>,
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
        let width = depth.dim / depth.num_heads.max(1);
        if schedule.len() > attention::DEPTH_STEPS || !width.is_multiple_of(4) {
            let steps = schedule.len();
            return Err(unsupported(format!(
                "{steps} sub-steps and heads of width {width} in its depth transformer"
            )));
        }
        let inputs = (0..sets).map(|w| loader.matrix(&format!("depformer_in.{w}.weight"), false));
        let inputs = inputs.collect::<Result<_>>()?;
        let spec = Spec {
            dim: depth.dim,
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
                .map(|kind| Norm::load(loader, &format!("depformer_norms.{k}"), kind, depth.dim));
            let norm = norm.transpose()?;
            let low_rank = depth
                .low_rank
                .map(|_| loader.matrix(&format!("{table}.low_rank.weight"), false));
            let low_rank = low_rank.transpose()?;
            let table = loader.table(&format!("{table}.weight"))?;
            steps.push(SubStep {
                set,
                norm,
                low_rank,
                table: Tables::new(loader.executor(), vec![(table, 0)])?,
                head: loader.matrix(&format!("linears.{k}.weight"), false)?,
            });
        }
        Ok(Self {
            dim: depth.dim,
            heads: depth.num_heads,
            kv_heads: depth.num_heads / depth.kv_repeat.max(1),
            inputs,
            layers,
            steps,
        })
    }

    pub(super) fn widths(&self) -> Widths {
        let all = self.layers.iter().map(Layer::widths);
        all.fold(Widths::default(), Widths::or)
    }

    pub(super) fn needs(&self, rows: usize) -> Needs {
        let steps = self.steps.iter();
        let heads = steps.flat_map(|step| [Some(&step.head), step.low_rank.as_ref()]);
        let matrices = self.inputs.iter().chain(heads.flatten());
        let layers = self.layers.iter().map(|layer| layer.needs(rows));
        let all = matrices.map(|matrix| matrix.needs(rows)).chain(layers);
        all.fold(Needs::default(), Needs::or)
    }

    /// Memory for up to `rows` rows.
    pub(super) fn work(&self, executor: &Arc<dyn Executor>, rows: usize) -> Result<DepthWork> {
        let floats = |width: usize| Memory::zeros(executor, 4 * rows * width);
        let past = self.steps.len() * self.kv_heads * (self.dim / self.heads.max(1));
        let low = self.steps.iter().map(|step| step.table.dim()).max();
        let each = |_: &Layer| Ok((floats(past)?, floats(past)?));
        let logits = self.steps.iter().map(|step| floats(step.head.outputs()));
        Ok(DepthWork {
            x: floats(self.dim)?,
            low: floats(low.unwrap_or(0))?,
            past: self.layers.iter().map(each).collect::<Result<_>>()?,
            logits: logits.collect::<Result<_>>()?,
        })
    }

    /// The launches of all sub-steps, draws included. `z` is the temporal transformer's output.
    pub(super) fn nodes(
        &self,
        layout: &Layout,
        (input, output): (&Memory, &Memory),
        z: Pointer,
        (work, own): (&Activations, &DepthWork),
        (keys, weights, room): (Pointer, Pointer, usize),
        nodes: &mut Vec<Node>,
    ) {
        let rows = layout.rows();
        let x = own.x.start();
        let add = Then::Add {
            residual: x,
            scale: None,
        };
        for (k, step) in self.steps.iter().enumerate() {
            let before = match k.checked_sub(1) {
                None => (layout.text(output), 1),
                Some(j) => (layout.audio(output, j), self.steps.len()),
            };
            match &step.low_rank {
                None => nodes.push(step.table.node(rows, before, Pointer::NULL, x)),
                Some(matrix) => {
                    let low = own.low.start();
                    nodes.push(step.table.node(rows, before, Pointer::NULL, low));
                    nodes.push(matrix.node(rows, low, x, Then::Store, &work.scratch));
                }
            }
            nodes.push(self.inputs[step.set].node(rows, z, x, add, &work.scratch));
            for (l, layer) in self.layers.iter().enumerate() {
                let attend = self.attend(k, rows, &own.past[l], work);
                layer.nodes(step.set, rows, x, work, attend, nodes);
            }
            let last = match &step.norm {
                None => x,
                Some(norm) => {
                    nodes.push(norm.node(rows, x, work.normed.start()));
                    work.normed.start()
                }
            };
            let logits = own.logits[k].start();
            nodes.push(
                step.head
                    .node(rows, last, logits, Then::Store, &work.scratch),
            );
            let draws = layout.audio_draws(input, output, k);
            let token = (layout.audio(output, k), self.steps.len());
            let vocabulary = step.head.outputs();
            let sorted = (keys, weights, room);
            nodes.push(sample(
                rows,
                logits,
                vocabulary,
                1 + k,
                draws,
                token,
                sorted,
            ));
        }
    }

    fn attend(
        &self,
        k: usize,
        rows: usize,
        (keys, values): &(Memory, Memory),
        work: &Activations,
    ) -> Node {
        let width = self.dim / self.heads.max(1);
        let args = DepthAttentionArgs {
            qkv: work.qkv.start(),
            keys: keys.start(),
            values: values.start(),
            out: work.attended.start(),
            rows: rows as i32,
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
            dim: width as i32,
            step: k as i32,
            steps: self.steps.len() as i32,
            score_scale: attention::score_scale(width),
            padding: 0,
        };
        let shape = attention::depth_shape(self.heads, rows);
        Node::new("kaiwa_attention_depth", shape, &args)
    }
}

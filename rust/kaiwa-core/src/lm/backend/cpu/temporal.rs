//! The temporal transformer: one step of every active slot (docs/spec/moshi.md 3).

use super::layer::{self, LayerStep, LayerWork, Matrices, NormsAndScales};
use super::load::{Loader, NormWeights};
use super::stages::{self, Stages};
use crate::cpu::{Isa, KvLayout, KvSlot, Packed, WeightBits, rope_table};
use crate::error::Result;
use crate::formats::WeightFormat;
use crate::lm::LmConfig;
use crate::lm::backend::table::Table;

/// Weights of the temporal transformer.
pub(super) struct Temporal {
    text_emb: Table,
    emb: Vec<Table>,
    layers: Vec<(NormsAndScales, Matrices)>,
    out_norm: NormWeights,
    text_linear: Packed,
    extra_heads: Vec<Packed>,
    max_period: f64,
}

/// Scratch of a step.
#[derive(Default)]
pub(super) struct TemporalWork {
    x: Vec<f32>,
    row: Vec<f32>,
    rope: Vec<f32>,
    layer: LayerWork,
    /// Result after the last norm, `[rows, dim]`: what the depth transformer starts from.
    pub z: Vec<f32>,
}

impl Temporal {
    pub(super) fn load(loader: &mut Loader<'_>, config: &LmConfig) -> Result<Self> {
        let text_emb = loader.table("text_emb.weight")?;
        let mut emb = Vec::with_capacity(config.n_q);
        for i in 0..config.n_q {
            emb.push(loader.table(&format!("emb.{i}.weight"))?);
        }
        let mut layers = Vec::with_capacity(config.num_layers);
        for l in 0..config.num_layers {
            let prefix = format!("transformer.layers.{l}");
            let gating = format!("{prefix}.gating");
            let shared = NormsAndScales::load(loader, &prefix, config.norm, config.layer_scale)?;
            let matrices = Matrices::load(loader, &prefix, 0, &gating, config.feed_forward)?;
            layers.push((shared, matrices));
        }
        let mut extra_heads = Vec::with_capacity(config.extra_heads.0);
        for i in 0..config.extra_heads.0 {
            extra_heads.push(loader.linear(&format!("extra_heads.{i}.weight"))?);
        }
        Ok(Self {
            extra_heads,
            text_emb,
            emb,
            layers,
            out_norm: loader.norm("out_norm", config.norm)?,
            text_linear: loader.linear("text_linear.weight")?,
            max_period: config.max_period,
        })
    }

    /// Bytes of weights that a step reads, by stage.
    pub(super) fn step_bytes(&self) -> Vec<(&'static str, usize)> {
        let mut sums = [0; 4];
        for (_, matrices) in &self.layers {
            for (sum, bytes) in sums.iter_mut().zip(matrices.bytes()) {
                *sum += bytes;
            }
        }
        let names = [
            stages::ATTENTION_IN,
            stages::ATTENTION_OUT,
            stages::MLP_IN,
            stages::MLP_OUT,
        ];
        let mut stages: Vec<_> = names.into_iter().zip(sums).collect();
        let heads = self.extra_heads.iter().map(Packed::bytes).sum::<usize>();
        stages.push((stages::TEXT_HEAD, self.text_linear.bytes() + heads));
        stages
    }

    /// How most matrices are held.
    pub(super) fn weights(&self) -> WeightFormat {
        let bits = self
            .layers
            .first()
            .map_or(WeightBits::F32, |(_, m)| m.in_proj.bits());
        match bits {
            WeightBits::F32 => WeightFormat::F32,
            WeightBits::Bf16 => WeightFormat::Bf16,
            WeightBits::Quant(q) if q.bits == 4 => WeightFormat::Int4,
            WeightBits::Quant(_) => WeightFormat::Int8,
        }
    }

    /// One step of the given slots: `tokens` is `[rows, n_q + 1]`, text first.
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller; a struct would only rename them"
    )]
    pub(super) fn run(
        &self,
        isa: Isa,
        layout: KvLayout,
        slots: &mut [&mut KvSlot],
        tokens: &[i32],
        conditions: &[f32],
        text_logits: &mut [f32],
        work: &mut TemporalWork,
        stages: &mut Stages,
    ) {
        let rows = slots.len();
        let (dim, columns) = (self.text_emb.cols(), self.emb.len() + 1);
        stages.start();
        work.x.clear();
        work.x.resize(rows * dim, 0.0);
        work.row.resize(dim, 0.0);
        for (m, x) in work.x.chunks_exact_mut(dim).enumerate() {
            let ids = &tokens[m * columns..][..columns];
            let audio = self.emb.iter().zip(&ids[1..]);
            for (table, id) in audio.chain([(&self.text_emb, &ids[0])]) {
                if *id >= 0 {
                    table.row(*id, &mut work.row);
                    x.iter_mut().zip(&work.row).for_each(|(x, v)| *x += v);
                }
            }
            if let Some(condition) = conditions.get(m * dim..(m + 1) * dim) {
                x.iter_mut().zip(condition).for_each(|(x, v)| *x += v);
            }
        }
        work.rope.resize(rows * layout.head_dim, 0.0);
        for (slot, angles) in slots
            .iter()
            .zip(work.rope.chunks_exact_mut(layout.head_dim))
        {
            rope_table(slot.pos, layout.head_dim, self.max_period, angles);
        }
        stages.end(stages::EMBED);
        for (l, (shared, matrices)) in self.layers.iter().enumerate() {
            let step = LayerStep {
                isa,
                layout,
                layer: l,
                rope: &work.rope,
                slots,
            };
            let (x, scratch) = (&mut work.x, &mut work.layer);
            layer::run(shared, matrices, step, x, scratch, Some(stages));
        }
        work.z.resize(rows * dim, 0.0);
        self.out_norm.run(isa, &work.x, &mut work.z);
        layer::product_into(&self.text_linear, &work.z, rows, text_logits);
        stages.end(stages::TEXT_HEAD);
    }

    /// Logits of the extra heads, `[rows, heads, classes]`, of the pass that `work` is from.
    pub(super) fn heads(&self, work: &mut TemporalWork, logits: &mut [f32]) {
        let rows = work.z.len() / self.text_emb.cols();
        let width = logits.len() / rows.max(1);
        let mut at = 0;
        for head in &self.extra_heads {
            let classes = head.outputs();
            work.row.resize(rows * classes, 0.0);
            layer::product_into(head, &work.z, rows, &mut work.row);
            let to = logits.chunks_exact_mut(width);
            for (to, from) in to.zip(work.row.chunks_exact(classes)) {
                to[at..at + classes].copy_from_slice(from);
            }
            at += classes;
        }
    }
}

//! The depth transformer: the codebooks of one frame, one sub-step each (docs/spec/moshi.md 4).

use super::layer::{self, LayerStep, LayerWork, Matrices, NormsAndScales};
use super::load::{Loader, NormWeights};
use crate::cpu::{Isa, KvLayout, KvPool, KvSlot, Packed};
use crate::error::Result;
use crate::formats::KvFormat;
use crate::lm::backend::table::Table;
use crate::lm::{DepthConfig, LmConfig};

/// Weights of the depth transformer: only of the sub-steps that are run.
pub(super) struct Depth {
    layout: KvLayout,
    schedule: Vec<usize>,
    /// Per weight set.
    inputs: Vec<Packed>,
    /// Per layer: what the sets share, then each set's own.
    layers: Vec<(NormsAndScales, Vec<Matrices>)>,
    /// Per sub-step: the table of the token before it.
    tables: Vec<(Table, Option<Packed>)>,
    norms: Vec<Option<NormWeights>>,
    heads: Vec<Packed>,
}

/// Scratch of a frame, and its keys and values: they die with it.
#[derive(Default)]
pub(super) struct DepthWork {
    pool: KvPool,
    slots: Vec<KvSlot>,
    h: Vec<f32>,
    row: Vec<f32>,
    low: Vec<f32>,
    normed: Vec<f32>,
    layer: LayerWork,
}

impl Depth {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        config: &LmConfig,
        depth: &DepthConfig,
    ) -> Result<Self> {
        let steps = config.spoken;
        let schedule = depth.schedule[..steps].to_vec();
        let sets = schedule.iter().max().map_or(0, |w| w + 1);
        let mut inputs = Vec::with_capacity(sets);
        for w in 0..sets {
            inputs.push(loader.linear(&format!("depformer_in.{w}.weight"))?);
        }
        let mut layers = Vec::with_capacity(depth.num_layers);
        for l in 0..depth.num_layers {
            let prefix = format!("depformer.layers.{l}");
            let shared = NormsAndScales::load(loader, &prefix, config.norm, depth.layer_scale)?;
            let mut matrices = Vec::with_capacity(sets);
            for w in 0..sets {
                let gating = format!("{prefix}.gating.{w}");
                matrices.push(Matrices::load(
                    loader,
                    &prefix,
                    w,
                    &gating,
                    depth.feed_forward,
                )?);
            }
            layers.push((shared, matrices));
        }
        let (mut tables, mut norms, mut heads) = (vec![], vec![], vec![]);
        for k in 0..steps {
            let prefix = match k {
                0 => "depformer_text_emb".to_owned(),
                k => format!("depformer_emb.{}", k - 1),
            };
            let table = loader.table(&format!("{prefix}.weight"))?;
            let low_rank = match depth.low_rank {
                Some(_) => Some(loader.linear(&format!("{prefix}.low_rank.weight"))?),
                None => None,
            };
            tables.push((table, low_rank));
            norms.push(match depth.final_norm {
                Some(kind) => Some(loader.norm(&format!("depformer_norms.{k}"), kind)?),
                None => None,
            });
            heads.push(loader.linear(&format!("linears.{k}.weight"))?);
        }
        let head_dim = depth.dim / depth.num_heads;
        Ok(Self {
            layout: KvLayout {
                layers: depth.num_layers,
                heads: depth.num_heads / depth.kv_repeat,
                repeat: depth.kv_repeat,
                head_dim,
                context: steps,
                bits: KvFormat::F32,
                interleaved: true,
            },
            schedule,
            inputs,
            layers,
            tables,
            norms,
            heads,
        })
    }

    /// Bytes of weights that a frame reads.
    pub(super) fn step_bytes(&self) -> usize {
        let sets = self.schedule.iter().map(|&w| {
            let layers = self.layers.iter().map(|(_, m)| m[w].bytes());
            self.inputs[w].bytes() + layers.map(|b| b.iter().sum::<usize>()).sum::<usize>()
        });
        sets.sum::<usize>() + self.heads.iter().map(Packed::bytes).sum::<usize>()
    }

    /// Sub-step `k` of `previous.len()` rows: `z` is the temporal result `[rows, dim]`.
    pub(super) fn run(
        &self,
        isa: Isa,
        k: usize,
        z: &[f32],
        previous: &[i32],
        logits: &mut [f32],
        work: &mut DepthWork,
    ) {
        let (rows, set) = (previous.len(), self.schedule[k]);
        if k == 0 {
            // Never fewer: what a dropped slot held would not come back.
            let most = work.slots.len().max(rows);
            work.slots.resize_with(most, KvSlot::default);
            work.slots.iter_mut().for_each(|slot| slot.pos = 0);
        }
        layer::product(&self.inputs[set], z, rows, &mut work.h);
        let (table, low_rank) = &self.tables[k];
        let width = work.h.len() / rows.max(1);
        for (h, id) in work.h.chunks_exact_mut(width).zip(previous) {
            if *id < 0 {
                continue;
            }
            work.row.resize(table.cols(), 0.0);
            table.row(*id, &mut work.row);
            let e = match low_rank {
                Some(w) => {
                    layer::product(w, &work.row, 1, &mut work.low);
                    &work.low
                }
                None => &work.row,
            };
            h.iter_mut().zip(e).for_each(|(h, e)| *h += e);
        }
        let mut slots: Vec<&mut KvSlot> = work.slots.iter_mut().take(rows).collect();
        for slot in &mut slots {
            slot.prepare(&self.layout, &mut work.pool);
        }
        for (l, (shared, matrices)) in self.layers.iter().enumerate() {
            let step = LayerStep {
                isa,
                layout: self.layout,
                layer: l,
                // Sub-steps have no positions.
                rope: &[],
                slots: &mut slots,
            };
            let (h, scratch) = (&mut work.h, &mut work.layer);
            layer::run(shared, &matrices[set], step, h, scratch, None);
        }
        slots.iter_mut().for_each(|slot| slot.pos += 1);
        let h = match &self.norms[k] {
            Some(norm) => {
                work.normed.resize(work.h.len(), 0.0);
                norm.run(isa, &work.h, &mut work.normed);
                &work.normed
            }
            None => &work.h,
        };
        layer::product_into(&self.heads[k], h, rows, logits);
    }
}

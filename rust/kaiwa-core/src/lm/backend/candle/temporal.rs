//! The temporal transformer: one step of any slots, each at its own position (docs/spec/moshi.md
//! 3).

use candle_core::{Device, Tensor};
use candle_nn::rotary_emb::{rope, rope_i};

use super::heads::Heads;
use super::internal_error;
use super::kv::{Rings, Run};
use super::layer::{Layer, Spec};
use super::linear::Linear;
use super::norm::Norm;
use super::weights::Loader;
use crate::error::Result;
use crate::formats::WeightFormat;
use crate::lm::backend::table::Table;
use crate::lm::{LmConfig, Rope};

/// Weights of the temporal transformer, its tables and its text head.
pub(super) struct Temporal {
    dim: usize,
    audio: Vec<Table>,
    text: Table,
    layers: Vec<Layer>,
    out_norm: Norm,
    /// `[text_card_out, dim]`.
    text_linear: Linear,
    extra_heads: Vec<Linear>,
    heads: Heads,
    rope: Rope,
    /// Angle of a step, per rotated pair.
    speeds: Vec<f64>,
}

/// What the host works out for a step, alike for all layers.
struct Plan {
    /// `[rows, 1, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    runs: Vec<RunPlan>,
}

struct RunPlan {
    run: Run,
    /// Columns that are read.
    length: usize,
    /// See [`Rings::places`].
    places: Tensor,
    /// `[count, 1, 1, length]`; none if all keys are seen.
    mask: Option<Tensor>,
}

impl Temporal {
    /// How most matrices are held.
    pub(super) fn weights(&self) -> WeightFormat {
        self.text_linear.format()
    }

    pub(super) fn load(loader: &mut Loader<'_>, config: &LmConfig) -> Result<Self> {
        let spec = Spec {
            norm: config.norm,
            feed_forward: config.feed_forward,
            layer_scale: config.layer_scale,
            sets: None,
        };
        let text = loader.table("text_emb.weight")?;
        let audio = (0..config.n_q).map(|i| loader.table(&format!("emb.{i}.weight")));
        let audio = audio.collect::<Result<_>>()?;
        let layers = (0..config.num_layers)
            .map(|l| Layer::load(loader, &format!("transformer.layers.{l}"), &spec));
        let layers = layers.collect::<Result<_>>()?;
        let heads = Heads::new(config.dim, config.num_heads, config.kv_repeat);
        let extra_heads =
            (0..config.extra_heads.0).map(|i| loader.matrix(&format!("extra_heads.{i}.weight")));
        let extra_heads = extra_heads.collect::<Result<_>>()?;
        let pairs = heads.dim / 2;
        let speed = |i| config.max_period.powf(-(i as f64) / pairs as f64);
        Ok(Self {
            dim: config.dim,
            audio,
            text,
            layers,
            out_norm: Norm::load(loader, "out_norm", config.norm)?,
            text_linear: loader.matrix("text_linear.weight")?,
            extra_heads,
            heads,
            rope: config.rope,
            speeds: (0..pairs).map(speed).collect(),
        })
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads
    }

    /// Sums of embeddings and conditions, `[rows, dim]`, on the host: audio tables in order, then
    /// text, then the condition (docs/spec/moshi.md 3.1). `tokens` is `[rows, n_q + 1]`, text
    /// first.
    pub(super) fn embed(&self, tokens: &[i32], conditions: &[f32]) -> Result<Vec<f32>> {
        let streams = self.audio.len() + 1;
        let mut out = vec![0.0; tokens.len() / streams * self.dim];
        for (row, out) in tokens
            .chunks_exact(streams)
            .zip(out.chunks_exact_mut(self.dim))
        {
            let Some((text, audio)) = row.split_first() else {
                continue;
            };
            for (table, id) in self.audio.iter().zip(audio) {
                table.add_row(*id, out)?;
            }
            self.text.add_row(*text, out)?;
        }
        for (slot, value) in out.iter_mut().zip(conditions) {
            *slot += value;
        }
        Ok(out)
    }

    /// One step: the normalised outputs `[rows, dim]` of inputs `[rows, dim]`.
    ///
    /// Writes the keys of the positions and nothing else, and these only replace keys that no
    /// later step sees: a step that failed half-way can simply be made again.
    pub(super) fn run(
        &self,
        inputs: Vec<f32>,
        slots: &[usize],
        positions: &[u64],
        rings: &Rings,
        device: &Device,
    ) -> Result<Tensor> {
        let rows = slots.len();
        let plan = self.plan(slots, positions, rings, device)?;
        let mut x = Tensor::from_vec(inputs, (rows, self.dim), device)?;
        for (l, layer) in self.layers.iter().enumerate() {
            x = layer.run(0, &x, |all| self.attend(l, all, rings, &plan))?;
        }
        self.out_norm.run(&x)
    }

    /// Text logits `[rows, text_card_out]` of [`Temporal::run`]'s outputs.
    pub(super) fn text_logits(&self, z: &Tensor) -> Result<Tensor> {
        self.text_linear.forward(z)
    }

    /// Logits of the extra heads, `[rows, heads * classes]`, of [`Temporal::run`]'s outputs.
    pub(super) fn extra_logits(&self, z: &Tensor) -> Result<Tensor> {
        let each = self.extra_heads.iter().map(|head| head.forward(z));
        Ok(Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 1)?)
    }

    /// Attention of one layer over the rings, after writing the step's own keys.
    fn attend(&self, l: usize, all: &Tensor, rings: &Rings, plan: &Plan) -> Result<Tensor> {
        let Heads { count, kv, .. } = self.heads;
        // Queries and keys turn alike, so they turn together.
        let turned = self.heads.part(all, 0, count + kv)?;
        let turned = match self.rope {
            Rope::Interleaved => rope_i(&turned, &plan.cos, &plan.sin)?,
            Rope::NeoX => rope(&turned, &plan.cos, &plan.sin)?,
        };
        let k = turned.narrow(1, count, kv)?.contiguous()?;
        let v = self.heads.part(all, count + kv, kv)?;
        let q = turned.narrow(1, 0, count)?.contiguous()?;
        let mut parts = Vec::with_capacity(plan.runs.len());
        for part in &plan.runs {
            let RunPlan { run, places, .. } = part;
            rings.write(l, *run, places, &k, &v)?;
            let q = q.narrow(0, run.row, run.count)?;
            let [k, v] = rings.read(l, *run, part.length)?;
            parts.push(self.heads.attend(&q, &k, &v, part.mask.as_ref())?);
        }
        match <[Tensor; 1]>::try_from(parts) {
            Ok([one]) => Ok(one),
            Err(parts) => Ok(Tensor::cat(&parts, 0)?),
        }
    }

    fn plan(
        &self,
        slots: &[usize],
        positions: &[u64],
        rings: &Rings,
        device: &Device,
    ) -> Result<Plan> {
        let at = |slot: &usize| positions.get(*slot).copied();
        let at: Option<Vec<u64>> = slots.iter().map(at).collect();
        let at = at.ok_or_else(|| internal_error("no such slot"))?;
        let columns: Vec<usize> = at.iter().map(|p| rings.column(*p)).collect();
        // Angles in f64: in f32 they would lose 0.06 rad a day (docs/spec/moshi.md 3.5).
        let angles = at
            .iter()
            .flat_map(|p| self.speeds.iter().map(move |s| *p as f64 * s));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles
            .map(f64::sin_cos)
            .map(|(s, c)| (s as f32, c as f32))
            .unzip();
        let table = (slots.len(), 1, self.speeds.len());
        let mut runs = Vec::new();
        for run in Run::all(slots) {
            let rows = run.row..run.row + run.count;
            let places = rings.places(&columns[rows.clone()], device)?;
            let seen = &at[rows];
            let length = rings.length(seen.iter().copied().max().unwrap_or(0));
            // Once a slot has wrapped, its ring holds just what its step sees.
            let mask = if seen.iter().all(|p| *p + 1 >= length as u64) {
                None
            } else {
                let hidden = |column: usize, position: u64| column as u64 > position;
                let mask: Vec<f32> = seen
                    .iter()
                    .flat_map(|p| (0..length).map(move |c| (c, *p)))
                    .map(|(c, p)| if hidden(c, p) { f32::NEG_INFINITY } else { 0.0 })
                    .collect();
                let shape = (run.count, 1, 1, length);
                Some(Tensor::from_vec(mask, shape, device)?)
            };
            runs.push(RunPlan {
                run,
                length,
                places,
                mask,
            });
        }
        Ok(Plan {
            cos: Tensor::from_vec(cos, table, device)?,
            sin: Tensor::from_vec(sin, table, device)?,
            runs,
        })
    }
}

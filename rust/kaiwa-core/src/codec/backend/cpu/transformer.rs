//! The encoder's and decoder's transformer: pre-norm, rotary, windowed (docs/spec/mimi.md 3).

use super::Loader;
use super::state::SlotState;
use crate::codec::config::MimiConfig;
use crate::cpu::{
    self, Activation, Attention, Isa, KvShape, Out, Packed, Residual, Rows, layer_norm, rope_table,
};
use crate::error::Result;

struct Layer {
    norm1: (Vec<f32>, Vec<f32>),
    in_proj: Packed,
    out_proj: Packed,
    scale1: Option<Vec<f32>>,
    norm2: (Vec<f32>, Vec<f32>),
    linear1: Packed,
    linear2: Packed,
    scale2: Option<Vec<f32>>,
}

/// All layers and what they share.
pub(super) struct Transformer {
    /// Linears around the layers where the latent has another width.
    projections: Option<(Packed, Packed)>,
    layers: Vec<Layer>,
    kv: KvShape,
    width: usize,
    hidden: usize,
    context: usize,
    max_period: f64,
    eps: f32,
}

/// Buffers of a step.
#[derive(Default)]
pub(super) struct TransformerWork {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    hidden: Vec<f32>,
    rope: Vec<f32>,
    projected: Vec<f32>,
}

fn dense(loader: &mut Loader<'_>, name: &str, n: usize, k: usize) -> Result<Packed> {
    let w = loader.tensors.take(name, &[n, k])?;
    Ok(loader.packer.dense(n, k, &w))
}

/// Layer scales are read in whole panels.
fn scale(loader: &mut Loader<'_>, name: &str, width: usize) -> Result<Vec<f32>> {
    let mut v = loader.tensors.take(name, &[width])?;
    v.resize(width.next_multiple_of(64), 0.0);
    Ok(v)
}

impl Transformer {
    /// `side` is `encoder_transformer` or `decoder_transformer`.
    pub(super) fn load(loader: &mut Loader<'_>, side: &str, config: &MimiConfig) -> Result<Self> {
        let c = &config.transformer;
        let (width, hidden) = (c.d_model, c.dim_feedforward);
        let mut layers = Vec::with_capacity(c.num_layers);
        for l in 0..c.num_layers {
            let p = format!("{side}.transformer.layers.{l}");
            let norm = |loader: &mut Loader<'_>, n: u8| -> Result<(Vec<f32>, Vec<f32>)> {
                Ok((
                    loader
                        .tensors
                        .take(&format!("{p}.norm{n}.weight"), &[width])?,
                    loader
                        .tensors
                        .take(&format!("{p}.norm{n}.bias"), &[width])?,
                ))
            };
            let ls = |loader: &mut Loader<'_>, n: u8| match c.layer_scale {
                true => scale(loader, &format!("{p}.layer_scale_{n}.scale"), width).map(Some),
                false => Ok(None),
            };
            layers.push(Layer {
                norm1: norm(loader, 1)?,
                in_proj: dense(
                    loader,
                    &format!("{p}.self_attn.in_proj_weight"),
                    3 * width,
                    width,
                )?,
                out_proj: dense(
                    loader,
                    &format!("{p}.self_attn.out_proj.weight"),
                    width,
                    width,
                )?,
                scale1: ls(loader, 1)?,
                norm2: norm(loader, 2)?,
                linear1: dense(loader, &format!("{p}.linear1.weight"), hidden, width)?,
                linear2: dense(loader, &format!("{p}.linear2.weight"), width, hidden)?,
                scale2: ls(loader, 2)?,
            });
        }
        let io = c.io_dimension;
        let projections = match c.has_io_proj() {
            true => Some((
                dense(loader, &format!("{side}.input_proj.weight"), width, io)?,
                dense(loader, &format!("{side}.output_projs.0.weight"), io, width)?,
            )),
            false => None,
        };
        Ok(Self {
            projections,
            layers,
            kv: KvShape::new(c.num_heads, width / c.num_heads, c.context),
            width,
            hidden,
            context: c.context,
            max_period: c.max_period,
            eps: c.norm_eps as f32,
        })
    }

    /// Floats of keys and values of one slot.
    pub(super) fn state_len(&self) -> usize {
        self.layers.len() * self.kv.len()
    }

    /// In place over `x` `[slots, steps, latent width]`. Positions are read, not moved.
    pub(super) fn run(
        &self,
        isa: Isa,
        work: &mut TransformerWork,
        slots: &mut [&mut SlotState],
        x: &mut [f32],
        steps: usize,
        group: usize,
    ) {
        let Some((input, output)) = &self.projections else {
            return self.layers(isa, work, slots, x, steps, group);
        };
        let rows = slots.len() * steps;
        let (io, flat) = (output.outputs(), |width| Rows::packed(rows, width));
        let mut inner = std::mem::take(&mut work.projected);
        inner.resize(rows * self.width, 0.0);
        cpu::matmul(
            input,
            x,
            flat(io),
            rows,
            Out::raw(&mut inner, flat(self.width)),
        );
        self.layers(isa, work, slots, &mut inner, steps, group);
        cpu::matmul(
            output,
            &inner,
            flat(self.width),
            rows,
            Out::raw(x, flat(io)),
        );
        work.projected = inner;
    }

    /// The layers, in place over `x` `[slots, steps, width]`.
    fn layers(
        &self,
        isa: Isa,
        work: &mut TransformerWork,
        slots: &mut [&mut SlotState],
        x: &mut [f32],
        steps: usize,
        group: usize,
    ) {
        let (count, width, head_dim) = (slots.len(), self.width, self.kv.head_dim);
        let rows = count * steps;
        let x = &mut x[..rows * width];
        work.normed.resize(rows * width, 0.0);
        work.qkv.resize(rows * 3 * width, 0.0);
        work.attended.resize(rows * width, 0.0);
        work.hidden.resize(rows * self.hidden, 0.0);
        work.rope.resize(rows * head_dim, 0.0);
        let positions: Vec<u64> = slots.iter().map(|s| s.pos).collect();
        for (i, angles) in work.rope.chunks_exact_mut(head_dim).enumerate() {
            let pos = positions[i / steps] + (i % steps) as u64;
            rope_table(pos, head_dim, self.max_period, angles);
        }
        let flat = |width| Rows::packed(rows, width);
        for (l, layer) in self.layers.iter().enumerate() {
            layer_norm(
                isa,
                x,
                &mut work.normed,
                &layer.norm1.0,
                &layer.norm1.1,
                self.eps,
            );
            let out = Out::raw(&mut work.qkv, flat(3 * width));
            cpu::matmul(&layer.in_proj, &work.normed, flat(width), rows, out);
            let at = l * self.kv.len();
            let mut rings: Vec<&mut [f32]> = slots
                .iter_mut()
                .map(|s| &mut s.rings[at..at + self.kv.len()])
                .collect();
            let attention = Attention {
                shape: self.kv,
                steps,
                group,
                context: self.context,
                qkv: &work.qkv,
                rope: &work.rope,
                out: &mut work.attended,
                positions: &positions,
            };
            cpu::attend(isa, attention, &mut rings);
            add_branch(
                x,
                &work.attended,
                &layer.out_proj,
                layer.scale1.as_deref(),
                rows,
            );
            layer_norm(
                isa,
                x,
                &mut work.normed,
                &layer.norm2.0,
                &layer.norm2.1,
                self.eps,
            );
            let out = Out::activated(Activation::Gelu, &mut work.hidden, flat(self.hidden));
            cpu::matmul(&layer.linear1, &work.normed, flat(width), rows, out);
            add_branch(
                x,
                &work.hidden,
                &layer.linear2,
                layer.scale2.as_deref(),
                rows,
            );
        }
    }
}

/// `x += scale * (w . from)` for `rows` rows.
fn add_branch(x: &mut [f32], from: &[f32], w: &Packed, scale: Option<&[f32]>, rows: usize) {
    let (width, inputs) = (x.len() / rows, from.len() / rows);
    let out = Out {
        scale,
        residual: Residual::InPlace,
        raw: Some((x, Rows::packed(rows, width))),
        activation: Activation::None,
        activated: None,
    };
    cpu::matmul(w, from, Rows::packed(rows, inputs), rows, out);
}

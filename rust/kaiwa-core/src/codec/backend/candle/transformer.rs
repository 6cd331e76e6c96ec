//! One of the two transformers (docs/spec/mimi.md 3).

use candle_core::{D, Tensor};
use candle_nn::ops::{layer_norm_slow, softmax_last_dim};
use candle_nn::rotary_emb::rope_i;

use super::attention::{Attention, Plan};
use super::state::DirectionState;
use super::weights::{Loader, linear};
use crate::codec::config::MimiConfig;
use crate::error::Result;

/// Weight and bias, `[d_model]` each.
type Norm = (Tensor, Tensor);

struct Layer {
    norm1: Norm,
    norm2: Norm,
    /// `[3 * d_model, d_model]`.
    in_proj: Tensor,
    /// `[d_model, d_model]`.
    out_proj: Tensor,
    /// `[hidden, d_model]`.
    linear1: Tensor,
    /// `[d_model, hidden]`.
    linear2: Tensor,
    /// `[d_model]` each, if the model has them.
    scales: Option<(Tensor, Tensor)>,
}

/// Pre-norm transformer over latent steps.
pub(super) struct Transformer {
    layers: Vec<Layer>,
    /// `[d_model, io]` in front and `[io, d_model]` behind, if the widths differ.
    io: Option<(Tensor, Tensor)>,
    pub(super) attention: Attention,
    eps: f32,
}

impl Transformer {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, config: &MimiConfig) -> Result<Self> {
        let t = &config.transformer;
        let (d, hidden) = (t.d_model, t.dim_feedforward);
        let io = if t.has_io_proj() {
            let io = t.io_dimension;
            let front = loader.weight(&format!("{name}.input_proj.weight"), &[d, io])?;
            let behind = loader.weight(&format!("{name}.output_projs.0.weight"), &[io, d])?;
            Some((front, behind))
        } else {
            None
        };
        let mut layers = Vec::with_capacity(t.num_layers);
        for l in 0..t.num_layers {
            let at = |part: &str| format!("{name}.transformer.layers.{l}.{part}");
            let mut vector = |part: &str| loader.exact(&at(part), &[d]);
            let norm1 = (vector("norm1.weight")?, vector("norm1.bias")?);
            let norm2 = (vector("norm2.weight")?, vector("norm2.bias")?);
            let scales = if t.layer_scale {
                Some((
                    vector("layer_scale_1.scale")?,
                    vector("layer_scale_2.scale")?,
                ))
            } else {
                None
            };
            layers.push(Layer {
                norm1,
                norm2,
                scales,
                in_proj: loader.weight(&at("self_attn.in_proj_weight"), &[3 * d, d])?,
                out_proj: loader.weight(&at("self_attn.out_proj.weight"), &[d, d])?,
                linear1: loader.weight(&at("linear1.weight"), &[hidden, d])?,
                linear2: loader.weight(&at("linear2.weight"), &[d, hidden])?,
            });
        }
        let attention = Attention::new(t, config.steps_per_frame());
        Ok(Self {
            layers,
            io,
            attention,
            eps: t.norm_eps as f32,
        })
    }

    /// Number of layers, each with rings for keys and values.
    pub(super) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// `[slots, width, steps]` to the same shape. Reads the rings and writes the call's keys, but
    /// leaves the positions to the caller.
    pub(super) fn run(&self, x: &Tensor, state: &DirectionState, plan: &Plan) -> Result<Tensor> {
        let (slots, width, steps) = x.dims3()?;
        // One row per slot and step; time-major from here on.
        let mut x = x
            .transpose(1, 2)?
            .contiguous()?
            .reshape((slots * steps, width))?;
        if let Some((front, _)) = &self.io {
            x = linear(&x, front)?;
        }
        for (layer, rings) in self.layers.iter().zip(&state.rings) {
            let (norm_w, norm_b) = &layer.norm1;
            // Two passes over the row: the fused kernels lose digits when the mean is large.
            let inner = layer_norm_slow(&x, norm_w, norm_b, self.eps)?;
            let inner = self.attend(layer, &inner, slots, steps, rings, plan)?;
            x = add_scaled(x, inner, layer.scales.as_ref().map(|s| &s.0))?;
            let (norm_w, norm_b) = &layer.norm2;
            let inner = layer_norm_slow(&x, norm_w, norm_b, self.eps)?;
            let inner = linear(&linear(&inner, &layer.linear1)?.gelu_erf()?, &layer.linear2)?;
            x = add_scaled(x, inner, layer.scales.as_ref().map(|s| &s.1))?;
        }
        if let Some((_, behind)) = &self.io {
            x = linear(&x, behind)?;
        }
        Ok(x.reshape((slots, steps, width))?
            .transpose(1, 2)?
            .contiguous()?)
    }

    /// Attention of `[slots * steps, d_model]` over the rings and itself.
    fn attend(
        &self,
        layer: &Layer,
        x: &Tensor,
        slots: usize,
        steps: usize,
        rings: &[Tensor; 2],
        plan: &Plan,
    ) -> Result<Tensor> {
        let Attention {
            heads,
            head_dim,
            context,
            ..
        } = self.attention;
        let all = linear(x, &layer.in_proj)?.reshape((slots, steps, 3, heads, head_dim))?;
        // Each [slots, heads, steps, head_dim].
        let part = |i| {
            all.narrow(2, i, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };
        let q = rope_i(&part(0)?, &plan.cos, &plan.sin)?;
        let k = rope_i(&part(1)?, &plan.cos, &plan.sin)?;
        let v = part(2)?;
        let q = (q * (head_dim as f64).powf(-0.5))?;

        let ring_shape = (slots, heads, context + 1, head_dim);
        let [ring_k, ring_v] = rings;
        let old_scores = q.matmul(&ring_k.reshape(ring_shape)?.transpose(2, 3)?)?;
        let new_scores = q.matmul(&k.transpose(2, 3)?)?;
        let scores = Tensor::cat(&[old_scores, new_scores], 3)?.broadcast_add(&plan.mask)?;
        let weights = softmax_last_dim(&scores)?;
        let old = weights.narrow(D::Minus1, 0, context + 1)?.contiguous()?;
        let new = weights
            .narrow(D::Minus1, context + 1, steps)?
            .contiguous()?;
        let out = (old.matmul(&ring_v.reshape(ring_shape)?)? + new.matmul(&v)?)?;

        // On CUDA a thread writes along the scattered axis, which therefore is the one of few
        // steps, and not the one of all slots' rows.
        let rings = (slots * heads, context + 1, head_dim);
        let new = (slots * heads, steps, head_dim);
        for (ring, new) in [(ring_k, k.reshape(new)?), (ring_v, v.reshape(new)?)] {
            ring.reshape(rings)?.scatter_set(&plan.rows, &new, 1)?;
        }

        let out = out.transpose(1, 2)?.contiguous()?;
        linear(
            &out.reshape((slots * steps, heads * head_dim))?,
            &layer.out_proj,
        )
    }
}

/// `x + scale * branch`.
fn add_scaled(x: Tensor, branch: Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
    Ok(match scale {
        None => (x + branch)?,
        Some(scale) => (x + branch.broadcast_mul(scale)?)?,
    })
}

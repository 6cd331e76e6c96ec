//! One transformer layer, as both transformers have it (docs/spec/moshi.md 3.2, 3.7).

use super::load::{Loader, NormWeights};
use super::stages::{self, Stages};
use crate::cpu::{
    self, Activation, Isa, KvAttention, KvLayout, KvSlot, Out, Packed, Residual, Rows, attend_step,
    silu_gate,
};
use crate::error::Result;
use crate::lm::{FeedForward, Norm};

/// Weights that differ between the weight sets of the depth transformer.
pub(super) struct Matrices {
    pub in_proj: Packed,
    pub out_proj: Packed,
    pub mlp: Mlp,
}

/// Feed-forward part.
pub(super) enum Mlp {
    SwiGlu {
        linear_in: Packed,
        linear_out: Packed,
    },
    Gelu {
        linear1: Packed,
        linear2: Packed,
    },
}

/// Norms and scales, shared by all weight sets.
pub(super) struct NormsAndScales {
    pub norm1: NormWeights,
    pub norm2: NormWeights,
    pub scale1: Option<Vec<f32>>,
    pub scale2: Option<Vec<f32>>,
}

/// Scratch of a step.
#[derive(Default)]
pub(super) struct LayerWork {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    inner: Vec<f32>,
    gated: Vec<f32>,
}

/// What a layer is told of its step.
pub(super) struct LayerStep<'a, 's> {
    pub isa: Isa,
    pub layout: KvLayout,
    pub layer: usize,
    /// `[rows, head_dim]`, or nothing.
    pub rope: &'a [f32],
    pub slots: &'a mut [&'s mut KvSlot],
}

impl Matrices {
    /// `prefix` is the layer's; `set` the weight set; `gating` the prefix of the gated linears.
    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        set: usize,
        gating: &str,
        kind: FeedForward,
    ) -> Result<Self> {
        let attention = format!("{prefix}.self_attn");
        Ok(Self {
            in_proj: loader.linear(&format!("{attention}.in_projs.{set}.weight"))?,
            out_proj: loader.linear(&format!("{attention}.out_projs.{set}.weight"))?,
            mlp: match kind {
                FeedForward::SwiGlu => Mlp::SwiGlu {
                    linear_in: loader.linear(&format!("{gating}.linear_in.weight"))?,
                    linear_out: loader.linear(&format!("{gating}.linear_out.weight"))?,
                },
                FeedForward::Gelu => Mlp::Gelu {
                    linear1: loader.linear(&format!("{prefix}.linear1.weight"))?,
                    linear2: loader.linear(&format!("{prefix}.linear2.weight"))?,
                },
            },
        })
    }

    /// Bytes of attention in, attention out, feed-forward in, feed-forward out.
    pub(super) fn bytes(&self) -> [usize; 4] {
        let (a, b) = match &self.mlp {
            Mlp::SwiGlu {
                linear_in,
                linear_out,
            } => (linear_in, linear_out),
            Mlp::Gelu { linear1, linear2 } => (linear1, linear2),
        };
        [&self.in_proj, &self.out_proj, a, b].map(Packed::bytes)
    }
}

impl NormsAndScales {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        norm: Norm,
        scaled: bool,
    ) -> Result<Self> {
        let scale = |name: &str, loader: &mut Loader<'_>| match scaled {
            true => loader.scale(&format!("{prefix}.{name}.scale")).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            scale1: scale("layer_scale_1", loader)?,
            scale2: scale("layer_scale_2", loader)?,
            norm1: loader.norm(&format!("{prefix}.norm1"), norm)?,
            norm2: loader.norm(&format!("{prefix}.norm2"), norm)?,
        })
    }
}

/// Runs a layer in place over `x`, `[rows, width]`, one row a slot. `stages` is told where the
/// time went, or left alone.
pub(super) fn run(
    shared: &NormsAndScales,
    weights: &Matrices,
    step: LayerStep<'_, '_>,
    x: &mut [f32],
    work: &mut LayerWork,
    mut stages: Option<&mut Stages>,
) {
    let rows = step.slots.len();
    let (isa, width) = (step.isa, x.len() / rows.max(1));
    let mut done = |stage: &str| {
        if let Some(stages) = stages.as_deref_mut() {
            stages.end(stage);
        }
    };
    work.normed.resize(x.len(), 0.0);
    shared.norm1.run(isa, x, &mut work.normed);
    product(&weights.in_proj, &work.normed, rows, &mut work.qkv);
    done(stages::ATTENTION_IN);
    let heads = step.layout.heads * step.layout.repeat;
    work.attended
        .resize(rows * heads * step.layout.head_dim, 0.0);
    let job = KvAttention {
        layout: step.layout,
        layer: step.layer,
        qkv: &work.qkv,
        rope: step.rope,
        out: &mut work.attended,
    };
    attend_step(isa, job, step.slots);
    done(stages::ATTENTION);
    add(
        &weights.out_proj,
        &work.attended,
        rows,
        shared.scale1.as_deref(),
        x,
    );
    done(stages::ATTENTION_OUT);
    shared.norm2.run(isa, x, &mut work.normed);
    match &weights.mlp {
        Mlp::SwiGlu {
            linear_in,
            linear_out,
        } => {
            product(linear_in, &work.normed, rows, &mut work.inner);
            let hidden = linear_out.inputs();
            work.gated.resize(rows * hidden, 0.0);
            silu_gate(isa, &work.inner, &mut work.gated, hidden);
            done(stages::MLP_IN);
            add(linear_out, &work.gated, rows, shared.scale2.as_deref(), x);
        }
        Mlp::Gelu { linear1, linear2 } => {
            let hidden = linear1.outputs();
            work.gated.resize(rows * hidden, 0.0);
            let to = Rows::packed(rows, hidden);
            let out = Out::activated(Activation::Gelu, &mut work.gated, to);
            cpu::matmul(linear1, &work.normed, Rows::packed(rows, width), rows, out);
            done(stages::MLP_IN);
            add(linear2, &work.gated, rows, shared.scale2.as_deref(), x);
        }
    }
    done(stages::MLP_OUT);
}

/// `out = w x` for each row; `out` is made to fit.
pub(super) fn product(w: &Packed, x: &[f32], rows: usize, out: &mut Vec<f32>) {
    out.resize(rows * w.outputs(), 0.0);
    product_into(w, x, rows, out);
}

/// `out = w x` for each row.
pub(super) fn product_into(w: &Packed, x: &[f32], rows: usize, out: &mut [f32]) {
    let to = Out::raw(out, Rows::packed(rows, w.outputs()));
    cpu::matmul(w, x, Rows::packed(rows, w.inputs()), rows, to);
}

/// `x += scale * (w from)` for each row.
pub(super) fn add(w: &Packed, from: &[f32], rows: usize, scale: Option<&[f32]>, x: &mut [f32]) {
    let out = Out {
        scale,
        residual: Residual::InPlace,
        raw: Some((x, Rows::packed(rows, w.outputs()))),
        activation: Activation::None,
        activated: None,
    };
    cpu::matmul(w, from, Rows::packed(rows, w.inputs()), rows, out);
}

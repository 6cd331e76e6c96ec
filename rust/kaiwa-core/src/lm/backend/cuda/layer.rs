//! One transformer layer, as both transformers have it (docs/spec/moshi.md 3.2, 3.7).

use super::load::Loader;
use super::matrix::{Matrix, Then};
use super::norm::Norm;
use super::workspace::{Activations, Needs, Widths};
use crate::cuda::args::Pointer;
use crate::cuda::executor::Memory;
use crate::cuda::frame::Node;
use crate::error::Result;
use crate::lm::{self, FeedForward};

/// What a layer is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub dim: usize,
    pub norm: lm::Norm,
    pub feed_forward: FeedForward,
    pub layer_scale: bool,
    /// Weight sets; `None` for the temporal transformer, whose names have no set.
    pub sets: Option<usize>,
}

/// Weights that differ between weight sets.
struct Attention {
    in_proj: Matrix,
    out_proj: Matrix,
}

/// Feed-forward part.
struct Feed {
    front: Matrix,
    behind: Matrix,
    gated: bool,
}

/// A layer's weights.
pub(super) struct Layer {
    norm1: Norm,
    norm2: Norm,
    scale1: Option<Memory>,
    scale2: Option<Memory>,
    attention: Vec<Attention>,
    /// One for each set, or one for all.
    feed: Vec<Feed>,
}

impl Layer {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, spec: &Spec) -> Result<Self> {
        let mut attention = Vec::new();
        let mut feed = Vec::new();
        for set in 0..spec.sets.unwrap_or(1) {
            let at = |part: &str| format!("{name}.self_attn.{part}.{set}.weight");
            attention.push(Attention {
                in_proj: loader.matrix(&at("in_projs"), false)?,
                out_proj: loader.matrix(&at("out_projs"), false)?,
            });
            let gating = match spec.sets {
                None => format!("{name}.gating"),
                Some(_) => format!("{name}.gating.{set}"),
            };
            match spec.feed_forward {
                FeedForward::SwiGlu => feed.push(Feed {
                    front: loader.matrix(&format!("{gating}.linear_in.weight"), true)?,
                    behind: loader.matrix(&format!("{gating}.linear_out.weight"), false)?,
                    gated: true,
                }),
                // Feed-forward parts without a gate exist once, whatever the sets.
                FeedForward::Gelu if set == 0 => feed.push(Feed {
                    front: loader.matrix(&format!("{name}.linear1.weight"), false)?,
                    behind: loader.matrix(&format!("{name}.linear2.weight"), false)?,
                    gated: false,
                }),
                FeedForward::Gelu => {}
            }
        }
        let (scale1, scale2) = match spec.layer_scale {
            false => (None, None),
            true => (
                Some(loader.vector(&format!("{name}.layer_scale_1.scale"))?),
                Some(loader.vector(&format!("{name}.layer_scale_2.scale"))?),
            ),
        };
        Ok(Self {
            norm1: Norm::load(loader, &format!("{name}.norm1"), spec.norm, spec.dim)?,
            norm2: Norm::load(loader, &format!("{name}.norm2"), spec.norm, spec.dim)?,
            scale1,
            scale2,
            attention,
            feed,
        })
    }

    /// Widths of its activations.
    pub(super) fn widths(&self) -> Widths {
        let attention = self.attention.iter().map(|a| Widths {
            dim: a.out_proj.outputs(),
            qkv: a.in_proj.outputs(),
            hidden: 0,
        });
        let feed = self.feed.iter().map(|feed| Widths {
            hidden: feed.front.outputs(),
            ..Widths::default()
        });
        attention.chain(feed).fold(Widths::default(), Widths::or)
    }

    /// Scratch memory of its products.
    pub(super) fn needs(&self, rows: usize) -> Needs {
        let attention = self
            .attention
            .iter()
            .flat_map(|a| [&a.in_proj, &a.out_proj]);
        let feed = self.feed.iter().flat_map(|f| [&f.front, &f.behind]);
        let all = attention.chain(feed).map(|matrix| matrix.needs(rows));
        all.fold(Needs::default(), Needs::or)
    }

    /// The launches that take `x [rows, dim]` through the layer with weight set `set`, in place.
    /// `attend` is the launch that turns `qkv` into `attended`.
    pub(super) fn nodes(
        &self,
        set: usize,
        rows: usize,
        x: Pointer,
        work: &Activations,
        attend: Node,
        nodes: &mut Vec<Node>,
    ) {
        let attention = &self.attention[set];
        let feed = self.feed.get(set).unwrap_or(&self.feed[0]);
        let [normed, qkv, attended, inner] =
            [&work.normed, &work.qkv, &work.attended, &work.inner].map(Memory::start);
        let scratch = &work.scratch;
        let add = |scale| Then::Add { residual: x, scale };
        nodes.push(self.norm1.node(rows, x, normed));
        nodes.push(
            attention
                .in_proj
                .node(rows, normed, qkv, Then::Store, scratch),
        );
        nodes.push(attend);
        let (one, two) = (self.scale1.as_ref(), self.scale2.as_ref());
        nodes.push(
            attention
                .out_proj
                .node(rows, attended, x, add(one), scratch),
        );
        nodes.push(self.norm2.node(rows, x, normed));
        let then = if feed.gated {
            Then::SiluGate
        } else {
            Then::Gelu
        };
        nodes.push(feed.front.node(rows, normed, inner, then, scratch));
        nodes.push(feed.behind.node(rows, inner, x, add(two), scratch));
    }
}

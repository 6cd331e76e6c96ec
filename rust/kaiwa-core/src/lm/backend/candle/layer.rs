//! A layer of either transformer, all but its attention (docs/spec/moshi.md 3.2, 3.7, 4).
//!
//! The depth transformer has several weight sets per layer and the temporal one has one; the
//! norms and layer scales are shared by the sets.

use candle_core::Tensor;
use candle_nn::ops::swiglu;

use super::linear::Linear;
use super::norm::Norm;
use super::weights::Loader;
use crate::error::Result;
use crate::lm::{self, FeedForward};

/// Projections into and out of the attention.
struct Attention {
    /// `[q rows + k rows + v rows, dim]`.
    in_proj: Linear,
    /// `[dim, dim]`.
    out_proj: Linear,
}

/// The feed-forward part.
enum Feed {
    /// `linear_in [2 hidden, dim]`, gate rows first, and `linear_out [dim, hidden]`.
    Silu(Linear, Linear),
    /// `linear1 [hidden, dim]`, `linear2 [dim, hidden]`.
    Gelu(Linear, Linear),
}

impl Feed {
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu(front, behind) => behind.forward(&swiglu(&front.forward(x)?)?),
            Self::Gelu(front, behind) => behind.forward(&front.forward(x)?.gelu_erf()?),
        }
    }
}

/// What a layer's tensors are called.
pub(super) struct Spec {
    pub norm: lm::Norm,
    pub feed_forward: FeedForward,
    pub layer_scale: bool,
    /// Weight sets; `None` for one set whose feed-forward names carry no index.
    pub sets: Option<usize>,
}

/// One layer.
pub(super) struct Layer {
    norm1: Norm,
    norm2: Norm,
    scales: Option<(Tensor, Tensor)>,
    /// One per weight set.
    attention: Vec<Attention>,
    /// One per weight set, or one for all.
    feed: Vec<Feed>,
}

impl Layer {
    /// Reads `{name}.norm1...` and so on.
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, spec: &Spec) -> Result<Self> {
        let mut attention = Vec::new();
        let mut feed = Vec::new();
        for set in 0..spec.sets.unwrap_or(1) {
            let at = |part: &str| format!("{name}.self_attn.{part}.{set}.weight");
            attention.push(Attention {
                in_proj: loader.matrix(&at("in_projs"))?,
                out_proj: loader.matrix(&at("out_projs"))?,
            });
            match spec.feed_forward {
                FeedForward::SwiGlu => {
                    let index = spec.sets.map_or(String::new(), |_| format!(".{set}"));
                    let at = |part: &str| format!("{name}.gating{index}.{part}.weight");
                    let front = loader.matrix(&at("linear_in"))?;
                    feed.push(Feed::Silu(front, loader.matrix(&at("linear_out"))?));
                }
                // Feed-forward parts without a gate exist once, whatever the sets.
                FeedForward::Gelu if set == 0 => {
                    let front = loader.matrix(&format!("{name}.linear1.weight"))?;
                    let behind = loader.matrix(&format!("{name}.linear2.weight"))?;
                    feed.push(Feed::Gelu(front, behind));
                }
                FeedForward::Gelu => {}
            }
        }
        let scales = if spec.layer_scale {
            Some((
                loader.vector(&format!("{name}.layer_scale_1.scale"))?,
                loader.vector(&format!("{name}.layer_scale_2.scale"))?,
            ))
        } else {
            None
        };
        Ok(Self {
            norm1: Norm::load(loader, &format!("{name}.norm1"), spec.norm)?,
            norm2: Norm::load(loader, &format!("{name}.norm2"), spec.norm)?,
            scales,
            attention,
            feed,
        })
    }

    /// `x [rows, dim]` through the layer with weight set `set`. `attend` turns the projected
    /// queries, keys and values, side by side in a row, into the heads' outputs `[rows, dim]`.
    pub(super) fn run(
        &self,
        set: usize,
        x: &Tensor,
        attend: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (scale1, scale2) = match &self.scales {
            None => (None, None),
            Some((one, two)) => (Some(one), Some(two)),
        };
        let attention = self.attention.get(set);
        let attention = attention.ok_or_else(|| super::internal_error("no such weight set"))?;
        let feed = self.feed.get(set).or(self.feed.first());
        let feed = feed.ok_or_else(|| super::internal_error("no such weight set"))?;
        let heads = attend(&attention.in_proj.forward(&self.norm1.run(x)?)?)?;
        let x = add_scaled(x, &attention.out_proj.forward(&heads)?, scale1)?;
        let inner = feed.run(&self.norm2.run(&x)?)?;
        add_scaled(&x, &inner, scale2)
    }
}

/// `x + scale * branch`.
fn add_scaled(x: &Tensor, branch: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
    Ok(match scale {
        None => (x + branch)?,
        Some(scale) => (x + branch.broadcast_mul(scale)?)?,
    })
}

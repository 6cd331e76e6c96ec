//! Attention between given queries, keys and values (docs/spec/moshi.md 3.4).

use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;

use crate::error::Result;

/// How a row of projections is cut into heads: all queries, then all keys, then all values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Query heads.
    pub count: usize,
    /// Key and value heads; divides `count`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    pub(super) fn new(dim: usize, count: usize, kv_repeat: usize) -> Self {
        Self {
            count,
            kv: count / kv_repeat.max(1),
            dim: dim / count.max(1),
        }
    }

    /// Heads `first..first + count` of projections `[rows, (count + 2 kv) dim]`, counted over
    /// queries, keys and values: `[rows, count, 1, dim]`, contiguous.
    pub(super) fn part(&self, all: &Tensor, first: usize, count: usize) -> Result<Tensor> {
        let (rows, _) = all.dims2()?;
        let part = all.narrow(1, first * self.dim, count * self.dim)?;
        Ok(part.contiguous()?.reshape((rows, count, 1, self.dim))?)
    }

    /// Outputs `[rows, count * dim]` f32 of queries `[rows, count, 1, dim]` over keys and values
    /// `[rows, kv, steps, dim]`. `mask`, added to the scores, is `[rows, 1, 1, steps]`.
    ///
    /// The products are in the type of the keys; the scores are widened to f32 before the mask
    /// and the softmax.
    pub(super) fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let rows = q.dim(0)?;
        // A key head serves neighbouring query heads: they become rows of one product.
        let shape = (rows, self.kv, self.count / self.kv.max(1), self.dim);
        let q = (q.reshape(shape)? * (self.dim as f64).powf(-0.5))?;
        let kind = k.dtype();
        let scores = q.to_dtype(kind)?.matmul(&k.transpose(2, 3)?)?;
        let scores = scores.to_dtype(DType::F32)?;
        let scores = match mask {
            None => scores,
            Some(mask) => scores.broadcast_add(mask)?,
        };
        let out = softmax_last_dim(&scores)?.to_dtype(kind)?.matmul(v)?;
        Ok(out
            .to_dtype(DType::F32)?
            .reshape((rows, self.count * self.dim))?)
    }
}

//! The split residual vector quantiser, always in f32 (docs/spec/mimi.md 4).

use candle_core::{DType, Device, Tensor};

use super::weights::{Loader, linear};
use crate::codec::config::MimiConfig;
use crate::error::{Error, Result};

struct Book {
    /// `[bins, dimension]`.
    vectors: Tensor,
    /// Half the squared length of each vector, `[1, bins]`.
    half_norms: Tensor,
}

/// Codebooks that share projections; each quantises what the one before left over.
struct Group {
    /// `[dimension, latent]`.
    input: Tensor,
    /// `[latent, dimension]`.
    output: Tensor,
    books: Vec<Book>,
}

/// Both groups: one semantic codebook, then the acoustic ones, over the same latent.
pub(super) struct Quantizer {
    groups: [Group; 2],
    /// 0, 1, .. as f32, `[1, bins]`.
    indices: Tensor,
    bins: usize,
}

impl Quantizer {
    pub(super) fn load(loader: &mut Loader<'_>, config: &MimiConfig) -> Result<Self> {
        let books = config.quantizer.n_q - 1;
        let bins = config.quantizer.bins;
        let count = u32::try_from(bins).unwrap_or(u32::MAX);
        Ok(Self {
            groups: [
                Group::load(loader, "quantizer.rvq_first", 1, config)?,
                Group::load(loader, "quantizer.rvq_rest", books, config)?,
            ],
            indices: Tensor::arange(0, count, loader.device())?
                .to_dtype(DType::F32)?
                .reshape((1, bins))?,
            bins,
        })
    }

    /// Latents `[rows, latent]` to the first `codebooks` codes of each, row-major
    /// `[rows, codebooks]`.
    pub(super) fn encode(&self, latents: &Tensor, codebooks: usize) -> Result<Vec<u32>> {
        let mut codes = Vec::with_capacity(codebooks);
        for group in &self.groups {
            let books = group.books.iter().take(codebooks - codes.len());
            let mut rest = linear(latents, &group.input)?;
            for book in books {
                let products = linear(&rest, &book.vectors)?;
                let distances = products.neg()?.broadcast_add(&book.half_norms)?;
                let chosen = self.first_minimum(&distances)?;
                rest = (rest - book.vectors.index_select(&chosen, 0)?)?;
                codes.push(chosen);
            }
        }
        Ok(Tensor::stack(&codes, 1)?.flatten_all()?.to_vec1()?)
    }

    /// Index of the smallest entry of each row, the lowest of equals. Devices differ in which of
    /// equals their own argmin gives.
    fn first_minimum(&self, distances: &Tensor) -> Result<Tensor> {
        let minimum = distances.min_keepdim(1)?;
        let is_minimum = distances.broadcast_eq(&minimum)?;
        let indices = self.indices.broadcast_as(distances.shape())?.contiguous()?;
        // A row of NaN has no minimum; it must still give an index that exists.
        let last = (indices.zeros_like()? + (self.bins - 1) as f64)?;
        Ok(is_minimum
            .where_cond(&indices, &last)?
            .min(1)?
            .to_dtype(DType::U32)?)
    }

    /// Checked codes `[codebooks, rows]` to latents `[rows, latent]`.
    pub(super) fn decode(&self, codes: Vec<u32>, rows: usize, device: &Device) -> Result<Tensor> {
        let codebooks = codes.len().checked_div(rows).unwrap_or(0);
        let codes = Tensor::from_vec(codes, (codebooks, rows), device)?;
        let mut next = 0;
        let mut out: Option<Tensor> = None;
        for group in &self.groups {
            let mut sum: Option<Tensor> = None;
            for book in group.books.iter().take(codebooks - next) {
                let vectors = book.vectors.index_select(&codes.get(next)?, 0)?;
                sum = Some(match sum {
                    None => vectors,
                    Some(sum) => (sum + vectors)?,
                });
                next += 1;
            }
            if let Some(sum) = sum {
                let part = linear(&sum, &group.output)?;
                out = Some(match out {
                    None => part,
                    Some(out) => (out + part)?,
                });
            }
        }
        let max = self.groups.iter().map(|group| group.books.len()).sum();
        out.ok_or(Error::CodebookCount { got: 0, max })
    }
}

impl Group {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        books: usize,
        config: &MimiConfig,
    ) -> Result<Self> {
        let latent = config.seanet.dimension;
        let (dim, bins) = (config.quantizer.dimension, config.quantizer.bins);
        let input = loader.exact(&format!("{name}.input_proj.weight"), &[dim, latent, 1])?;
        let output = loader.exact(&format!("{name}.output_proj.weight"), &[latent, dim, 1])?;
        let books = (0..books).map(|n| {
            let book = format!("{name}.vq.layers.{n}._codebook");
            let usage = loader.values(&format!("{book}.cluster_usage"), &[bins])?;
            let mut sum = loader.values(&format!("{book}.embedding_sum"), &[bins, dim])?;
            let mut half_norms = Vec::with_capacity(bins);
            for (vector, usage) in sum.chunks_exact_mut(dim).zip(&usage) {
                vector.iter_mut().for_each(|v| *v /= usage.max(1e-5));
                half_norms.push(0.5 * vector.iter().map(|v| v * v).sum::<f32>());
            }
            Ok(Book {
                vectors: Tensor::from_vec(sum, (bins, dim), loader.device())?,
                half_norms: Tensor::from_vec(half_norms, (1, bins), loader.device())?,
            })
        });
        let books = books.collect::<Result<_>>()?;
        Ok(Self {
            input: input.squeeze(2)?,
            output: output.squeeze(2)?,
            books,
        })
    }
}

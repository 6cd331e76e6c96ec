//! The split residual vector quantiser, always in f32 (docs/spec/mimi.md 4).

use super::Loader;
use crate::codec::config::MimiConfig;
use crate::cpu::{self, Isa, Out, Packed, Residual, Rows, Taps, argmax_rows};
use crate::error::Result;

/// One group: projections around a chain of codebooks.
struct Group {
    input: Packed,
    output: Packed,
    /// Entries as rows, with minus half their squared length as bias: the largest product with a
    /// residual is then the nearest entry.
    books: Vec<Packed>,
}

/// Semantic and acoustic groups; both see the same latent.
pub(super) struct Quantizer {
    semantic: Group,
    acoustic: Group,
    dimension: usize,
    latent: usize,
    bins: usize,
}

/// Buffers of a step.
#[derive(Default)]
pub(super) struct QuantizerWork {
    residual: Vec<f32>,
    scores: Vec<f32>,
    chosen: Vec<usize>,
}

impl Group {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        books: usize,
        latent: usize,
        config: &MimiConfig,
    ) -> Result<Self> {
        let (dim, bins) = (config.quantizer.dimension, config.quantizer.bins);
        let input = loader
            .tensors
            .take(&format!("{name}.input_proj.weight"), &[dim, latent, 1])?;
        let output = loader
            .tensors
            .take(&format!("{name}.output_proj.weight"), &[latent, dim, 1])?;
        let mut packed = Vec::with_capacity(books);
        for i in 0..books {
            let p = format!("{name}.vq.layers.{i}._codebook");
            let usage = loader
                .tensors
                .take(&format!("{p}.cluster_usage"), &[bins])?;
            let mut e = loader
                .tensors
                .take(&format!("{p}.embedding_sum"), &[bins, dim])?;
            let mut bias = Vec::with_capacity(bins);
            for (row, usage) in e.chunks_exact_mut(dim).zip(&usage) {
                row.iter_mut().for_each(|v| *v /= usage.max(1e-5));
                bias.push(-0.5 * row.iter().map(|v| v * v).sum::<f32>());
            }
            packed.push(
                loader
                    .packer
                    .pack(bins, Taps::one(dim), Some(&bias), |o, k| e[o * dim + k]),
            );
        }
        Ok(Self {
            input: loader.packer.dense(dim, latent, &input),
            output: loader.packer.dense(latent, dim, &output),
            books: packed,
        })
    }
}

impl Quantizer {
    pub(super) fn load(loader: &mut Loader<'_>, config: &MimiConfig) -> Result<Self> {
        let latent = config.seanet.dimension;
        let books = config.quantizer.n_q - 1;
        Ok(Self {
            semantic: Group::load(loader, "quantizer.rvq_first", 1, latent, config)?,
            acoustic: Group::load(loader, "quantizer.rvq_rest", books, latent, config)?,
            dimension: config.quantizer.dimension,
            latent,
            bins: config.quantizer.bins,
        })
    }

    /// Calls `code(row, codebook, index)` for the first `codebooks` codebooks of every latent of
    /// `x` `[rows, latent]`.
    pub(super) fn encode(
        &self,
        isa: Isa,
        work: &mut QuantizerWork,
        x: &[f32],
        codebooks: usize,
        mut code: impl FnMut(usize, usize, usize),
    ) {
        let (rows, dim) = (x.len() / self.latent, self.dimension);
        let flat = |width| Rows::packed(rows, width);
        work.residual.resize(rows * dim, 0.0);
        work.scores.resize(rows * self.bins, 0.0);
        work.chosen.resize(rows, 0);
        let mut index = 0;
        for group in [&self.semantic, &self.acoustic] {
            if index == codebooks {
                return;
            }
            let out = Out::raw(&mut work.residual, flat(dim));
            cpu::matmul(&group.input, x, flat(self.latent), rows, out);
            for book in group.books.iter().take(codebooks - index) {
                let out = Out::raw(&mut work.scores, flat(self.bins));
                cpu::matmul(book, &work.residual, flat(dim), rows, out);
                let chosen = &mut work.chosen;
                argmax_rows(isa, &work.scores, self.bins, |row, best| {
                    chosen[row] = best;
                    code(row, index, best);
                });
                for (residual, &best) in work.residual.chunks_exact_mut(dim).zip(&work.chosen) {
                    for (i, r) in residual.iter_mut().enumerate() {
                        *r -= book.get(best, i);
                    }
                }
                index += 1;
            }
        }
    }

    /// Latents `[rows, latent]` of `code(row, codebook)` for the first `codebooks` codebooks.
    pub(super) fn decode(
        &self,
        work: &mut QuantizerWork,
        code: impl Fn(usize, usize) -> usize,
        codebooks: usize,
        rows: usize,
        out: &mut Vec<f32>,
    ) {
        let dim = self.dimension;
        let flat = |width| Rows::packed(rows, width);
        out.resize(rows * self.latent, 0.0);
        let mut index = 0;
        for group in [&self.semantic, &self.acoustic] {
            if index == codebooks {
                return;
            }
            work.residual.clear();
            work.residual.resize(rows * dim, 0.0);
            for book in group.books.iter().take(codebooks - index) {
                for (row, sum) in work.residual.chunks_exact_mut(dim).enumerate() {
                    let entry = code(row, index);
                    for (i, s) in sum.iter_mut().enumerate() {
                        *s += book.get(entry, i);
                    }
                }
                index += 1;
            }
            let mut target = Out::raw(out, flat(self.latent));
            if !std::ptr::eq(group, &self.semantic) {
                target.residual = Residual::InPlace;
            }
            cpu::matmul(&group.output, &work.residual, flat(dim), rows, target);
        }
    }
}

//! How a matrix is cut among the blocks of a card: its shape alone decides.

use super::form::Form;
use crate::cuda::shape::Shape;

/// Multiprocessors of the card that the cut is made for (H100, H200). On others it is right too,
/// only not the best.
const MULTIPROCESSORS: usize = 132;

/// Blocks from which on every multiprocessor has two.
const ENOUGH_BLOCKS: usize = 256;

/// Weights up to which a matrix is cut into narrow strips: those of the depth transformer, which
/// are read in about a microsecond, so that sums over several blocks would cost more than they give.
const SMALL: usize = 8 << 20;

/// Most parts that the inputs are cut into.
const MOST_SPLITS: usize = 8;

/// `Product::WARPS` of `cuda/product.h`.
const WARPS: usize = 4;

/// A packed matrix's sizes, and how it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedShape {
    pub form: Form,
    /// Inputs.
    pub k: usize,
    /// Outputs, after the gate if there is one.
    pub n: usize,
    /// Tiles of 16 outputs, before the gate.
    pub tiles: usize,
    /// Units of inputs.
    pub units: usize,
    /// Tiles that a block takes: 2 or 4.
    pub strip: usize,
    /// Parts that the inputs are cut into.
    pub splits: usize,
}

impl PackedShape {
    pub(super) fn new(form: Form, k: usize, n: usize, gated: bool) -> Self {
        let tiles = n.div_ceil(16) * (1 + usize::from(gated));
        let units = k.div_ceil(form.unit());
        let small = form == Form::F32 || 16 * tiles * k <= SMALL;
        let strip = if small { 2 } else { 4 };
        let tiles = tiles.next_multiple_of(strip);
        Self {
            form,
            k,
            n,
            tiles,
            units,
            strip,
            splits: if small {
                1
            } else {
                splits(tiles / strip, units)
            },
        }
    }

    /// The same cut otherwise: sums over several blocks are tested with small matrices.
    #[cfg(test)]
    pub(crate) fn cut(self, splits: usize) -> Self {
        Self { splits, ..self }
    }

    /// Bytes of weights.
    pub(crate) fn bytes(&self) -> usize {
        self.tiles * self.units * self.form.unit_bytes()
    }

    /// Kernel and size of the launch for a number of rows.
    pub(crate) fn launch(&self, rows: usize) -> (&'static str, Shape) {
        let columns = columns(rows);
        // `Product::STAGE_BYTES`, `STAGES`, `SUM_BYTES` and `SHARED` of `cuda/product.h`.
        let stage = self.strip * self.form.copy_bytes();
        let stages = ((64 << 10) / (WARPS * stage)).clamp(3, 8);
        let sums = WARPS * self.strip * columns * 4 * 32 * 4;
        let shape = Shape {
            grid: [
                rows.div_ceil(8 * columns) as u32,
                (self.tiles / self.strip) as u32,
                self.splits as u32,
            ],
            block: 32 * WARPS as u32,
            shared: (WARPS * stages * stage).max(sums) as u32,
        };
        (self.form.kernel(self.strip, columns), shape)
    }

    /// Numbers of `ProductArgs::partial`; launches that follow each other may share it.
    pub(crate) fn partial_floats(&self, rows: usize) -> usize {
        match self.splits {
            1 => 0,
            splits => splits * rows * 16 * self.tiles,
        }
    }

    /// Numbers of `ProductArgs::counters`; launches that follow each other may share them.
    pub(crate) fn counters(&self, rows: usize) -> usize {
        match self.splits {
            1 => 0,
            _ => rows.div_ceil(8 * columns(rows)) * self.tiles / self.strip,
        }
    }
}

/// Tiles of eight rows that a block takes.
fn columns(rows: usize) -> usize {
    if rows <= 8 { 1 } else { 4 }
}

/// Parts of the inputs so that the blocks keep all multiprocessors busy to the end; few, since each
/// part's sums are written and read again.
fn splits(strips: usize, units: usize) -> usize {
    let most = (units / WARPS).clamp(1, MOST_SPLITS);
    let busy = |splits: usize| {
        let blocks = strips * splits;
        let rounds = blocks.div_ceil(MULTIPROCESSORS);
        1000 * blocks / (rounds * MULTIPROCESSORS)
    };
    let cost = |splits: usize| 20 * splits;
    (1..=most)
        .filter(|splits| strips * splits >= ENOUGH_BLOCKS)
        .max_by_key(|splits| (busy(*splits).saturating_sub(cost(*splits)), most - splits))
        .unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrices of the 7B model (docs/spec/moshi.md 1).
    #[test]
    fn the_matrices_of_the_large_model_keep_a_card_busy() {
        for (n, k, gated, strip, splits) in [
            (12288, 4096, false, 4, 2),
            (4096, 4096, false, 4, 4),
            (11264, 4096, true, 4, 3),
            (4096, 11264, false, 4, 4),
            (32000, 4096, false, 4, 1),
            (3072, 1024, false, 2, 1),
            (1024, 1024, false, 2, 1),
            (2816, 1024, true, 2, 1),
            (1024, 2816, false, 2, 1),
            (1024, 4096, false, 2, 1),
            (2048, 1024, false, 2, 1),
        ] {
            for form in [Form::Bf16, Form::Q8_0, Form::Q4_0] {
                let shape = PackedShape::new(form, k, n, gated);
                assert_eq!(
                    (shape.strip, shape.splits),
                    (strip, splits),
                    "{n} {k} {form:?}"
                );
                // Nothing is filled up, so nothing is read in vain.
                assert_eq!(16 * shape.tiles, n * (1 + usize::from(gated)));
                assert_eq!(shape.units * form.unit(), k);
            }
        }
    }

    #[test]
    fn no_launch_asks_for_more_than_every_card_has() {
        for form in Form::ALL {
            for (n, k) in [(64, 64), (4096, 4096)] {
                for rows in [1, 8, 9, 64] {
                    let (_, shape) = PackedShape::new(form, k, n, false).launch(rows);
                    // Of compute capability 8.9, the least of 8.0 and later: 99 KiB, of which 16
                    // bytes are static.
                    assert!(shape.shared + 16 <= 99 << 10, "{form:?} {}", shape.shared);
                }
            }
        }
    }
}

//! Embedding tables in the form they have in their file: a step reads a row of each, so widening
//! them would only cost memory.

use crate::lm::encoding::decode_row;
use crate::lm::{Encoding, RawRows};

/// A table `[rows, cols]`.
pub(super) struct Table {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    raw: RawRows,
}

impl Table {
    pub(super) fn new(encoding: Encoding, rows: usize, cols: usize, mut raw: RawRows) -> Self {
        raw.data.shrink_to_fit();
        Self {
            encoding,
            rows,
            cols,
            raw,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.raw.data.len() + self.raw.scales.len() + self.raw.biases.len()
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Writes the row of `id` to `out`, zeros for a negative id (docs/spec/moshi.md 2.2).
    pub(super) fn row(&self, id: i32, out: &mut [f32]) {
        match usize::try_from(id).ok().filter(|id| *id < self.rows) {
            Some(id) => decode_row(self.encoding, self.cols, &self.raw, self.rows, id, out),
            None => out.fill(0.0),
        }
    }
}

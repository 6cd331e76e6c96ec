//! Embedding tables. They stay on the host, in the form they have in their file: a step reads one
//! row of each, so widening them, or keeping them on a device, would only cost memory
//! (docs/spec/moshi.md 11).

use crate::checkpoint::encoding::decode_row;
use crate::checkpoint::{Encoding, RawRows};
use crate::error::{Error, Result};

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

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.raw.bytes()
    }

    /// Width of a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Writes the row of a checked id to `out`, zeros for -1 (docs/spec/moshi.md 2.2).
    pub(super) fn row(&self, id: i32, out: &mut [f32]) {
        match usize::try_from(id).ok().filter(|id| *id < self.rows) {
            Some(id) => decode_row(self.encoding, self.cols, &self.raw, self.rows, id, out),
            None => out.fill(0.0),
        }
    }

    /// Adds the row of an id to `out`; -1 adds nothing.
    ///
    /// # Errors
    /// [`Error::CodeRange`] for an id that the table does not have.
    pub(super) fn add_row(&self, id: i32, out: &mut [f32]) -> Result<()> {
        if id == -1 {
            return Ok(());
        }
        if usize::try_from(id).ok().is_none_or(|id| id >= self.rows) {
            return Err(Error::CodeRange {
                row: 0,
                codebook: 0,
                frame: 0,
                value: i64::from(id),
                cardinality: self.rows,
            });
        }
        let mut row = vec![0.0; self.cols];
        self.row(id, &mut row);
        out.iter_mut().zip(row).for_each(|(out, v)| *out += v);
        Ok(())
    }
}

//! Embedding tables. They stay on the host, as they lie in their file: a step reads one row of
//! each, and adding some rows up costs less than the calls that would do it on a device, which
//! keeps its memory for what is read whole (docs/spec/moshi.md 11).

use super::weights::Loader;
use crate::error::{Error, Result};
use crate::lm::encoding::decode_row;
use crate::lm::{Encoding, RawRows};

/// One table, `[rows, cols]`.
pub(super) struct Table {
    rows: usize,
    cols: usize,
    encoding: Encoding,
    raw: RawRows,
}

impl Table {
    pub(super) fn new(rows: usize, cols: usize, encoding: Encoding, raw: RawRows) -> Self {
        Self {
            rows,
            cols,
            encoding,
            raw,
        }
    }

    pub(super) fn load(loader: &mut Loader<'_>, name: &str) -> Result<Self> {
        loader.table(name)
    }

    /// Width of a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Adds the row of a checked id to `out`; -1 adds nothing (docs/spec/moshi.md 2.2).
    ///
    /// # Errors
    /// [`Error::CodeRange`] for an id that the table does not have.
    pub(super) fn add_row(&self, id: i32, out: &mut [f32]) -> Result<()> {
        if id == -1 {
            return Ok(());
        }
        let index = usize::try_from(id).ok().filter(|i| *i < self.rows);
        let index = index.ok_or(Error::CodeRange {
            row: 0,
            codebook: 0,
            frame: 0,
            value: i64::from(id),
            cardinality: self.rows,
        })?;
        let mut row = vec![0.0; self.cols];
        decode_row(
            self.encoding,
            self.cols,
            &self.raw,
            self.rows,
            index,
            &mut row,
        );
        out.iter_mut().zip(row).for_each(|(out, v)| *out += v);
        Ok(())
    }
}

//! Tables of embeddings on the device.

use std::sync::Arc;

use super::load::Table;
use crate::cuda::args::{EmbedArgs, Pointer};
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Node;
use crate::cuda::shape::Shape;
use crate::error::Result;

/// Tables of embeddings whose rows are added up, on the device.
pub(super) struct Tables {
    /// Kept for the device, which has their addresses in `list`.
    _tables: Vec<Table>,
    list: Memory,
    count: usize,
    dim: usize,
}

impl Tables {
    /// In the order of the sum, each with its column of the tokens.
    pub(super) fn new(executor: &Arc<dyn Executor>, tables: Vec<(Table, usize)>) -> Result<Self> {
        let mut list = Vec::new();
        for (table, column) in &tables {
            list.extend(table.data.start().0.to_le_bytes());
            for number in [table.rows as i32, *column as i32, i32::from(table.bf16), 0] {
                list.extend(number.to_le_bytes());
            }
        }
        Ok(Self {
            list: Memory::of(executor, &list)?,
            count: tables.len(),
            dim: tables.first().map_or(0, |(table, _)| table.cols),
            _tables: tables.into_iter().map(|(table, _)| table).collect(),
        })
    }

    /// Width of a row.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Sums of the rows of `tokens`, of which a row has `stride`, and of `conditions`.
    pub(super) fn node(
        &self,
        rows: usize,
        (tokens, stride): (Pointer, usize),
        conditions: Pointer,
        out: Pointer,
    ) -> Node {
        const BLOCK: usize = 128;
        let args = EmbedArgs {
            tables: self.list.start(),
            tokens,
            conditions,
            out,
            count: self.count as i32,
            token_stride: stride as i32,
            dim: self.dim as i32,
            padding: 0,
        };
        let shape = Shape {
            grid: [rows as u32, self.dim.div_ceil(BLOCK) as u32, 1],
            block: BLOCK as u32,
            shared: 0,
        };
        Node::new("kaiwa_embed", shape, &args)
    }
}

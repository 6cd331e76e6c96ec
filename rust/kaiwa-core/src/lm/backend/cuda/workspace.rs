//! Memory that launches use and that means nothing after them.

use std::sync::Arc;

use crate::cuda::args::Pointer;
use crate::cuda::executor::{Executor, Memory};
use crate::error::Result;

/// Scratch memory of launches, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// Floats for sums that several blocks make together.
    pub partial: usize,
    /// Counters of the blocks that are done.
    pub counters: usize,
}

impl Needs {
    /// Enough for either: launches follow each other, so they share.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            partial: self.partial.max(other.partial),
            counters: self.counters.max(other.counters),
        }
    }
}

/// The memory of [`Needs`].
pub(super) struct Scratch {
    partial: Memory,
    /// Zeros between launches.
    counters: Memory,
}

impl Scratch {
    pub(super) fn new(executor: &Arc<dyn Executor>, needs: Needs) -> Result<Self> {
        Ok(Self {
            partial: Memory::zeros(executor, 4 * needs.partial)?,
            counters: Memory::zeros(executor, 4 * needs.counters)?,
        })
    }

    pub(super) fn partial(&self) -> Pointer {
        self.partial.start()
    }

    pub(super) fn counters(&self) -> Pointer {
        self.counters.start()
    }
}

/// Sizes of activations, in floats a row: the largest that any layer of either transformer has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Widths {
    /// Input of a layer.
    pub dim: usize,
    /// Queries, keys and values side by side.
    pub qkv: usize,
    /// Inside the feed-forward part.
    pub hidden: usize,
}

impl Widths {
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            dim: self.dim.max(other.dim),
            qkv: self.qkv.max(other.qkv),
            hidden: self.hidden.max(other.hidden),
        }
    }
}

/// Activations inside a layer, `[rows, width]` each.
pub(super) struct Activations {
    pub normed: Memory,
    pub qkv: Memory,
    pub attended: Memory,
    pub inner: Memory,
    pub scratch: Scratch,
}

impl Activations {
    /// For up to `rows` rows.
    pub(super) fn new(
        executor: &Arc<dyn Executor>,
        rows: usize,
        widths: Widths,
        needs: Needs,
    ) -> Result<Self> {
        let floats = |width: usize| Memory::zeros(executor, 4 * rows * width);
        Ok(Self {
            normed: floats(widths.dim)?,
            qkv: floats(widths.qkv)?,
            attended: floats(widths.dim)?,
            inner: floats(widths.hidden)?,
            scratch: Scratch::new(executor, needs)?,
        })
    }
}

//! A matrix on the device, and the launches that multiply with it.

use std::sync::Arc;

use super::workspace::{Needs, Scratch};
use crate::cuda::args::{Pointer, ProductArgs};
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Node;
use crate::cuda::product::{
    EPILOGUE_GELU, EPILOGUE_SILU_GATE, EPILOGUE_STORE, Packed, PackedShape,
};
use crate::error::Result;
use crate::formats::WeightFormat;

/// A matrix `[outputs, inputs]`, without a bias.
pub(super) struct Matrix {
    shape: PackedShape,
    weights: Memory,
    row_scales: Option<Memory>,
    format: WeightFormat,
}

/// What is done with a product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then<'a> {
    /// It is the output.
    Store,
    /// The output is its exact GELU.
    Gelu,
    /// The output is `silu(gate) up`; only for matrices that were loaded as gated.
    SiluGate,
    /// It is added to `residual`, times the factors of a layer scale where there are any.
    Add {
        residual: Pointer,
        scale: Option<&'a Memory>,
    },
}

impl Matrix {
    pub(super) fn new(
        executor: &Arc<dyn Executor>,
        packed: Packed,
        format: WeightFormat,
    ) -> Result<Self> {
        let row_scales = match packed.row_scales.is_empty() {
            true => None,
            false => Some(Memory::of_f32(executor, &packed.row_scales)?),
        };
        Ok(Self {
            shape: packed.shape,
            weights: Memory::of(executor, &packed.bytes)?,
            row_scales,
            format,
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.weights.bytes() + self.row_scales.as_ref().map_or(0, Memory::bytes)
    }

    /// How the numbers are held.
    pub(super) fn format(&self) -> WeightFormat {
        self.format
    }

    /// Outputs, after a gate.
    pub(super) fn outputs(&self) -> usize {
        self.shape.n
    }

    /// Scratch memory that its launch uses.
    pub(super) fn needs(&self, rows: usize) -> Needs {
        Needs {
            partial: self.shape.partial_floats(rows),
            counters: self.shape.counters(rows),
        }
    }

    /// Multiplies `x [rows, inputs]` into `out [rows, outputs]`.
    pub(super) fn node(
        &self,
        rows: usize,
        x: Pointer,
        out: Pointer,
        then: Then<'_>,
        scratch: &Scratch,
    ) -> Node {
        let (kernel, launch) = self.shape.launch(rows);
        let (epilogue, residual, scale) = match then {
            Then::Store => (EPILOGUE_STORE, Pointer::NULL, None),
            Then::Gelu => (EPILOGUE_GELU, Pointer::NULL, None),
            Then::SiluGate => (EPILOGUE_SILU_GATE, Pointer::NULL, None),
            Then::Add { residual, scale } => (EPILOGUE_STORE, residual, scale),
        };
        let or_null = |memory: Option<&Memory>| memory.map_or(Pointer::NULL, Memory::start);
        let args = ProductArgs {
            weights: self.weights.start(),
            row_scales: or_null(self.row_scales.as_ref()),
            x,
            residual,
            scale: or_null(scale),
            out,
            partial: scratch.partial(),
            counters: scratch.counters(),
            rows: rows as i32,
            k: self.shape.k as i32,
            n: self.shape.n as i32,
            tiles: self.shape.tiles as i32,
            units: self.shape.units as i32,
            splits: self.shape.splits as i32,
            epilogue,
            padding: 0,
        };
        Node::new(kernel, launch, &args)
    }
}

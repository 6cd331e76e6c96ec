//! Matrices in the form that the kernels of `cuda/product.h` read, and how these are launched.
//!
//! [`pack_raw`] takes rows as they lie in a file and keeps their integers; [`pack::pack_f32`] takes
//! numbers. What comes out says of itself how it is multiplied: [`PackedShape`].

mod form;
mod fragments;
mod pack;
mod plan;

#[cfg(test)]
pub(crate) use pack::random_rows;
pub(crate) use pack::{Packed, pack_raw};
pub(crate) use plan::PackedShape;

/// Which outputs a matrix's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// One each.
    Plain,
    /// The first half gates, the second is gated (`EPILOGUE_SILU_GATE`): tiles of both take turns,
    /// so that a block has what belongs together.
    GateUp,
}

/// `kaiwa::product::ProductEpilogue`: the sum, scaled and added to a residual where they are given.
pub(crate) const EPILOGUE_STORE: i32 = 0;
/// `gelu(sum)`.
pub(crate) const EPILOGUE_GELU: i32 = 1;
/// `silu(gate) up`, of a matrix packed as [`Pairing::GateUp`].
pub(crate) const EPILOGUE_SILU_GATE: i32 = 2;

//! Own kernels for the processor: packed matrices, fused layers, windowed attention.
//!
//! Everything here works on plain f32 slices in time-major order (`[rows, channels]`) and knows
//! nothing of codecs. Three rules make results independent of batch, chunk, thread count and
//! (where multiply-add is fused) instruction set: every output element is computed whole by one
//! task; its sum runs in one fixed order; no kernel looks at another row.

mod arena;
mod attention;
mod bandwidth;
mod gemm;
mod isa;
mod kv;
mod memory;
mod ops;
mod pack;
mod pack_rows;
mod pool;
mod quant;
mod quantise;
mod simd;

pub(crate) use arena::Arena;
pub(crate) use attention::{Attention, KvShape, attend};
pub use bandwidth::read_bandwidth;
pub(crate) use gemm::{Activation, Out, Residual, Rows, matmul};
pub use isa::Isa;
pub(crate) use kv::{KvAttention, KvLayout, KvPool, KvSlot, attend_step};
pub(crate) use memory::available_memory;
pub(crate) use ops::{argmax_rows, layer_norm, rms_norm, rope_table, silu_gate};
pub(crate) use pack::{Packed, Packer, Taps, WeightBits};
pub(crate) use pack_rows::quant_of;
pub(crate) use pool::for_each_chunk;
pub use pool::threads;
pub(crate) use quantise::{Q4_STEPS, q4_0_blocks};

//! The kernels on the processor, against plain references.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]

mod attention;
mod attention_depth;
mod layout;
mod norm;
mod product;

use super::args::{Args, Pointer};
use super::sim::{self, Met, Options, Shape};

/// Where a kernel reads.
pub(super) fn at<T>(values: &[T]) -> Pointer {
    Pointer(values.as_ptr() as u64)
}

/// Where a kernel writes.
pub(super) fn at_mut<T>(values: &mut [T]) -> Pointer {
    Pointer(values.as_mut_ptr() as u64)
}

/// Runs a kernel over memory of the caller's that is as large as it should be.
pub(super) fn run<A: Args>(name: &str, shape: Shape, args: &A, options: Options) -> Met {
    try_run(name, shape, args, options).unwrap()
}

pub(super) fn try_run<A: Args>(
    name: &str,
    shape: Shape,
    args: &A,
    options: Options,
) -> Result<Met, String> {
    unsafe { sim::launch(name, shape, args, options) }
}

/// Numbers between -1 and 1 without a pattern.
pub(super) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

//! Draws on the device.

use super::io::Draws;
use crate::cuda::args::{Pointer, SampleArgs};
use crate::cuda::frame::Node;
use crate::cuda::shape::Shape;

/// The draw of a token for each row of `logits [rows, vocabulary]`: number `draw` of its step, into
/// `tokens`, of which a row has a stride. `sorted` are keys, weights and their room for many
/// candidates.
pub(super) fn sample(
    rows: usize,
    logits: Pointer,
    vocabulary: usize,
    draw: usize,
    draws: Draws,
    (tokens, stride): (Pointer, usize),
    (keys, weights, room): (Pointer, Pointer, usize),
) -> Node {
    let args = SampleArgs {
        logits,
        slots: draws.slots,
        temperatures: draws.temperatures,
        top_ks: draws.top_ks,
        seeds: draws.seeds,
        steps: draws.steps,
        forced: draws.forced,
        tokens,
        finite: draws.finite,
        keys,
        weights,
        vocabulary: vocabulary as i32,
        draw: draw as i32,
        forced_stride: stride as i32,
        token_stride: stride as i32,
        room: room as i32,
        first: i32::from(draw == 0),
    };
    // Neither changes a token; small vocabularies need no more threads.
    let block = if vocabulary <= 4096 { 256 } else { 1024 };
    let shape = Shape {
        grid: [rows as u32, 1, 1],
        block,
        shared: 0,
    };
    Node::new("kaiwa_sample", shape, &args)
}

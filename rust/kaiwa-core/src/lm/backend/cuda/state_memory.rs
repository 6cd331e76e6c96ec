//! Memory of a stream on the device, and the launches of a frame over it.

use std::sync::Arc;

use super::CudaLm;
use super::depth::DepthWork;
use super::draw::sample;
use super::io::Layout;
use super::rings::Rings;
use super::temporal::TemporalWork;
use super::workspace::{Activations, Needs, Widths};
use crate::cuda::args::Pointer;
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Frame as Launches;
use crate::error::{Error, Result};
use crate::lm::backend::FrameTokens;
use crate::lm::backend::host_sampled::softmax;

/// More candidates than this are sorted in memory of the device (`cuda/sample.cu`).
const FEW_CANDIDATES: usize = 2048;

/// What a stream has on the device.
pub(super) struct StateMemory {
    pub(super) rings: Rings,
    work: Activations,
    pub(super) temporal: TemporalWork,
    pub(super) depth: Option<DepthWork>,
    input: Memory,
    output: Memory,
    /// For draws of many candidates: keys and weights, `[rows, room]`.
    sorted: Option<(Memory, Memory)>,
    room: usize,
}

impl StateMemory {
    /// For some slots, and for as many rows as the largest bucket has.
    pub(super) fn new(executor: &Arc<dyn Executor>, model: &CudaLm, slots: usize) -> Result<Self> {
        let (config, rows) = (&model.config, slots.next_power_of_two());
        let (temporal, depth) = (&model.temporal, model.depth.as_ref());
        let widths = depth.map_or(Widths::default(), |depth| depth.widths());
        let widths = temporal.widths().or(widths);
        // Fewer rows may be cut otherwise: enough for every bucket.
        let buckets = (0..=rows.ilog2()).map(|power| 1 << power);
        let needs = buckets.map(|rows| {
            let depth = depth.map_or(Needs::default(), |depth| depth.needs(rows));
            temporal
                .needs(rows)
                .or(depth)
                .or(Rings::needs(config, rows))
        });
        let needs = needs.fold(Needs::default(), Needs::or);
        let layout = Layout::new(config, rows);
        let vocabulary = config.text_card_out.max(config.card);
        let room = vocabulary.next_power_of_two();
        let sorted = match vocabulary > FEW_CANDIDATES {
            false => None,
            true => Some((
                Memory::zeros(executor, 8 * rows * room)?,
                Memory::zeros(executor, 8 * rows * room)?,
            )),
        };
        Ok(Self {
            rings: Rings::new(executor, config, model.kv, slots)?,
            work: Activations::new(executor, rows, widths, needs)?,
            temporal: temporal.work(executor, config, rows)?,
            depth: depth.map(|depth| depth.work(executor, rows)).transpose()?,
            input: Memory::zeros(executor, layout.input_bytes())?,
            output: Memory::zeros(executor, layout.output_bytes())?,
            sorted,
            room,
        })
    }

    /// The launches of a frame.
    pub(super) fn frame(&self, model: &CudaLm, layout: &Layout) -> Result<Launches> {
        let (config, rows) = (&model.config, layout.rows());
        let (input, output) = (&self.input, &self.output);
        let mut nodes = Vec::new();
        let work = (&self.work, &self.temporal);
        let columns = config.n_q + 1;
        let temporal = &model.temporal;
        temporal.nodes(layout, input, &self.rings, work, columns, &mut nodes)?;
        let sorted = self.sorted.as_ref();
        let (keys, weights) = sorted.map_or((Pointer::NULL, Pointer::NULL), |(keys, weights)| {
            (keys.start(), weights.start())
        });
        let sorted = (keys, weights, self.room);
        nodes.push(sample(
            rows,
            self.temporal.logits.start(),
            config.text_card_out,
            0,
            layout.text_draws(input, output),
            (layout.text(output), 1),
            sorted,
        ));
        if let (Some(depth), Some(work)) = (&model.depth, &self.depth) {
            let z = self.temporal.z.start();
            let work = (&self.work, work);
            depth.nodes(layout, (input, output), z, work, sorted, &mut nodes);
        }
        Ok(Launches {
            input: (input.start(), layout.input_bytes()),
            idle: layout.idle(),
            nodes,
            output: (output.start(), layout.output_bytes()),
        })
    }
}

impl StateMemory {
    /// Fetches the extra heads of a frame, where the model has any: of other models nothing more is
    /// waited for than the frame.
    pub(super) fn heads(
        &self,
        made: &mut FrameTokens,
        (count, classes): (usize, usize),
    ) -> Result<()> {
        let rows = made.finite.len();
        made.heads.resize(rows * count * classes, 0.0);
        for (i, memory) in self.temporal.heads.iter().enumerate() {
            let logits = memory.read_f32(0, rows * classes)?;
            for (row, logits) in logits.chunks_exact(classes).enumerate() {
                let to = &mut made.heads[(row * count + i) * classes..][..classes];
                to.copy_from_slice(logits);
                made.finite[row] &= to.iter().all(|v| v.is_finite());
                softmax(to);
            }
        }
        Ok(())
    }
}

/// A call that the stream never makes.
pub(super) fn internal_error(what: &str) -> Error {
    Error::Backend(candle_core::Error::Msg(what.into()))
}

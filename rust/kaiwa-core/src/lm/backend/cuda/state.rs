//! Running state of the slots of a stream.

use std::sync::Arc;

use super::CudaLm;
use super::depth::DepthWork;
use super::draw::sample;
use super::io::Layout;
use super::rings::{self, Rings};
use super::room;
use super::temporal::TemporalWork;
use super::workspace::{Activations, Needs, Widths};
use crate::cuda::args::Pointer;
use crate::cuda::executor::{Executor, Memory, Prepared};
use crate::cuda::frame::Frame as Launches;
use crate::error::{Error, Result};
use crate::lm::backend::host_sampled::softmax;
use crate::lm::backend::{Frame, FrameLogits, FrameTokens, Instruments, LmState};

/// More candidates than this are sorted in memory of the device (`cuda/sample.cu`).
const FEW_CANDIDATES: usize = 2048;

/// See the module; made by [`CudaLm`].
pub(crate) struct CudaState {
    /// For 1, 2, 4, ... rows; before the memory that they use, so that they are dropped first.
    buckets: Vec<Bucket>,
    memory: StateMemory,
    /// Steps each slot has made since its reset.
    positions: Vec<u64>,
    /// Rows of the last frame; none if there was none, or if it failed.
    last: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    model: Arc<CudaLm>,
}

/// A frame for a number of rows.
struct Bucket {
    layout: Layout,
    frame: Box<dyn Prepared>,
}

/// What a stream has on the device.
pub(super) struct StateMemory {
    pub(super) rings: Rings,
    work: Activations,
    temporal: TemporalWork,
    depth: Option<DepthWork>,
    input: Memory,
    output: Memory,
    /// For draws of many candidates: keys and weights, `[rows, room]`.
    sorted: Option<(Memory, Memory)>,
    room: usize,
}

impl CudaState {
    pub(super) fn new(model: Arc<CudaLm>, slots: usize) -> Result<Self> {
        room::check(&model, slots)?;
        let config = &model.config;
        let most = slots.next_power_of_two();
        let memory = StateMemory::new(&model.executor, &model, slots)?;
        let sizes = (0..=most.ilog2()).map(|power| 1 << power);
        let buckets = sizes.map(|rows| {
            let layout = Layout::new(config, rows);
            let frame = memory.frame(&model, &layout)?;
            let frame = model.executor.prepare(frame)?;
            Ok(Bucket { layout, frame })
        });
        Ok(Self {
            buckets: buckets.collect::<Result<_>>()?,
            memory,
            positions: vec![0; slots],
            last: 0,
            input: Vec::new(),
            output: Vec::new(),
            model,
        })
    }

    /// Copies what a slot holds to another: the control of tests.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn copy_slot(&mut self, from: usize, to: usize) {
        self.positions[to] = self.positions[from];
        let executor = &*self.model.executor;
        self.memory.rings.copy_slot(executor, from, to).unwrap();
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        let slots = self.positions.len();
        match slot < slots {
            true => Ok(()),
            false => Err(Error::SlotIndex { got: slot, slots }),
        }
    }
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
    fn frame(&self, model: &CudaLm, layout: &Layout) -> Result<Launches> {
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
    fn heads(&self, made: &mut FrameTokens, (count, classes): (usize, usize)) -> Result<()> {
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

impl LmState for CudaState {
    fn step(&mut self, frame: &Frame<'_>) -> Result<FrameTokens> {
        let rows = frame.slots.len();
        self.last = 0;
        frame
            .slots
            .iter()
            .try_for_each(|slot| self.check_slot(*slot))?;
        let fits = |bucket: &&mut Bucket| bucket.layout.rows() >= rows;
        let bucket = self.buckets.iter_mut().find(fits);
        let bucket = bucket.ok_or_else(|| internal_error("more rows than slots"))?;
        let layout = &bucket.layout;
        layout.write(frame, &self.positions, &mut self.input);
        self.output.resize(layout.output_bytes(), 0);
        bucket.frame.run(&self.input, &mut self.output)?;
        let mut made = layout.read(&self.output, rows);
        self.memory
            .heads(&mut made, self.model.config.extra_heads)?;
        for slot in frame.slots {
            self.positions[*slot] += 1;
        }
        self.last = rows;
        Ok(made)
    }

    fn logits(&mut self) -> Result<FrameLogits> {
        let (rows, config) = (self.last, &self.model.config);
        if rows == 0 {
            return Ok(FrameLogits::default());
        }
        let text = self
            .memory
            .temporal
            .logits
            .read_f32(0, rows * config.text_card_out)?;
        let steps = self.memory.depth.iter().flat_map(|work| &work.logits);
        let card = config.card;
        let steps = steps.map(|logits| logits.read_f32(0, rows * card));
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let mut audio = Vec::with_capacity(rows * steps.len() * card);
        for row in 0..rows {
            for step in &steps {
                audio.extend_from_slice(&step[row * card..][..card]);
            }
        }
        Ok(FrameLogits { text, audio })
    }

    /// What the slot has left in its rings lies in columns that its next steps do not read.
    fn reset(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        self.model.executor.check()?;
        self.positions[slot] = 0;
        Ok(())
    }

    fn slot_bytes(&self, slot: usize) -> usize {
        match self.positions.get(slot) {
            None => 0,
            Some(position) => {
                rings::bytes_of_slot(&self.model.config, self.model.kv) + size_of_val(position)
            }
        }
    }
}

impl Instruments for CudaState {
    fn skip(&mut self, steps: usize) -> Result<()> {
        for position in &mut self.positions {
            *position += steps as u64;
        }
        Ok(())
    }
}

/// A call that the stream never makes.
pub(super) fn internal_error(what: &str) -> Error {
    Error::Backend(candle_core::Error::Msg(what.into()))
}

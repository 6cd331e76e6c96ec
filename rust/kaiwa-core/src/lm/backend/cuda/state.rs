//! Running state of the slots of a stream.

use std::sync::Arc;

use super::io::Layout;
use super::state_memory::{StateMemory, internal_error};
use super::{CudaLm, rings, room};
use crate::cuda::executor::Prepared;
use crate::error::{Error, Result};
use crate::lm::backend::{Frame, FrameLogits, FrameTokens, Instruments, LmState};

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

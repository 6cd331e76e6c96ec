//! What runs frames, and the memory they run over.

use std::fmt::Debug;
use std::sync::Arc;

use super::args::Pointer;
use super::frame::Frame;
use crate::error::Result;

/// A card, or what stands in for one. Everything it is given is done in order.
pub(crate) trait Executor: Debug + Send + Sync {
    /// Memory of zeros that begins at a multiple of 256 bytes.
    ///
    /// # Errors
    /// Without room, or if the device is lost (as in all calls here).
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives back memory of [`Self::allocate`].
    fn free(&self, address: u64, bytes: usize);

    /// Copies to the device.
    fn write(&self, to: Pointer, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, after everything that it was given before.
    fn read(&self, from: Pointer, bytes: &mut [u8]) -> Result<()>;

    /// Makes a frame ready to run; all its memory exists and stays as long as it does.
    fn prepare(&self, frame: Frame) -> Result<Box<dyn Prepared>>;

    /// Whether the device still takes work.
    fn check(&self) -> Result<()>;

    /// Bytes that can still be allocated, where that is known.
    fn free_bytes(&self) -> Option<usize>;

    /// What was counted since it began.
    fn counts(&self) -> Counts;
}

/// A frame that can be run.
pub(crate) trait Prepared: Send {
    /// Runs it once and waits for its end. `input` and `output` are as long as the frame says.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<()>;
}

/// What frames have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Frames that were run.
    pub frames: u64,
    /// Kernels that these ran.
    pub kernels: u64,
    /// Times that work was given to the device (a graph is given at once).
    pub launches: u64,
    /// Copies to the device, and back.
    pub copies_in: u64,
    pub copies_out: u64,
    /// Times that the host waited for the device.
    pub waits: u64,
}

/// Memory on a device; freed when dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    executor: Arc<dyn Executor>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Zeros.
    pub(crate) fn zeros(executor: &Arc<dyn Executor>, bytes: usize) -> Result<Self> {
        Ok(Self {
            address: executor.allocate(bytes.max(1))?,
            executor: executor.clone(),
            bytes: bytes.max(1),
        })
    }

    /// A copy of `bytes`.
    pub(crate) fn of(executor: &Arc<dyn Executor>, bytes: &[u8]) -> Result<Self> {
        let memory = Self::zeros(executor, bytes.len())?;
        executor.write(memory.at(0), bytes)?;
        Ok(memory)
    }

    /// A copy of numbers.
    pub(crate) fn of_f32(executor: &Arc<dyn Executor>, values: &[f32]) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::of(executor, &bytes)
    }

    /// The address `offset` bytes from the beginning.
    pub(crate) fn at(&self, offset: usize) -> Pointer {
        debug_assert!(offset < self.bytes, "{offset} of {}", self.bytes);
        Pointer(self.address + offset as u64)
    }

    /// Its beginning.
    pub(crate) fn start(&self) -> Pointer {
        self.at(0)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `count` numbers from the byte `offset` on.
    pub(crate) fn read_f32(&self, offset: usize, count: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        self.executor.read(self.at(offset), &mut bytes)?;
        let words = bytes.as_chunks::<4>().0;
        Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.executor.free(self.address, self.bytes);
    }
}

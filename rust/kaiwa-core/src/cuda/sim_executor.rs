//! Frames on the processor, through the simulator: for tests, on machines without a card.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::args::Pointer;
use super::executor::{Counts, Executor, Prepared};
use super::frame::Frame;
use super::sim::{self, Options};
use crate::error::{Error, Result};

/// As on a card.
const ALIGNMENT: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SimExecutor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    /// Bytes of every piece of memory, by its address.
    memory: Mutex<BTreeMap<u64, usize>>,
    /// Bytes that can be allocated in all.
    size: usize,
    counts: Mutex<Counts>,
    /// Pieces of work until the device fails for good; negative: never.
    breaks_in: AtomicI64,
}

impl SimExecutor {
    /// A device with `size` bytes whose threads run in the order of `options`.
    pub(crate) fn new(size: usize, options: Options) -> Self {
        Self(Arc::new(Inner {
            options,
            memory: Mutex::default(),
            size,
            counts: Mutex::default(),
            breaks_in: AtomicI64::new(-1),
        }))
    }

    /// Lets the device fail for good after some more pieces of work (a copy, a launch).
    pub(crate) fn break_in(&self, pieces: i64) {
        self.0.breaks_in.store(pieces, Ordering::SeqCst);
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn lost(&self, reason: String) -> Error {
        self.breaks_in.store(0, Ordering::SeqCst);
        Error::DeviceLost {
            device: "cuda-sim".into(),
            reason,
        }
    }

    /// Does a piece of work, unless the device is lost by now.
    fn work(&self) -> Result<()> {
        match self.breaks_in.load(Ordering::SeqCst) {
            0 => Err(self.lost("a planted error".into())),
            left => {
                self.breaks_in
                    .store(if left > 0 { left - 1 } else { left }, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// Bytes from an address to the end of its piece of memory; none if it lies in none.
    fn room(memory: &BTreeMap<u64, usize>, at: Pointer) -> Option<usize> {
        let (start, bytes) = memory.range(..=at.0).next_back()?;
        bytes
            .checked_sub((at.0 - start) as usize)
            .filter(|room| *room > 0)
    }

    /// Whether `bytes` from an address on are memory of this device.
    fn check(&self, at: Pointer, bytes: usize) -> Result<()> {
        match Self::room(&self.memory(), at) {
            Some(room) if room >= bytes => Ok(()),
            _ => Err(self.lost(format!("a copy of {bytes} bytes outside its memory"))),
        }
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()
}

impl Executor for SimExecutor {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.0.work()?;
        let mut memory = self.0.memory();
        let used: usize = memory.values().sum();
        let full = || Error::Backend(candle_core::Error::Msg("out of memory".into()));
        if bytes > self.0.size.saturating_sub(used) {
            return Err(full());
        }
        let layout = layout(bytes).ok_or_else(full)?;
        // SAFETY: the layout is of at least one byte.
        let address = unsafe { alloc_zeroed(layout) } as u64;
        if address == 0 {
            return Err(full());
        }
        memory.insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let held = self.0.memory().remove(&address);
        debug_assert_eq!(held, Some(bytes));
        if let (Some(bytes), Some(layout)) = (held, held.and_then(layout)) {
            debug_assert!(layout.size() >= bytes);
            // SAFETY: it was among the pieces that `allocate` made with this very layout, and it is
            // not any more.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }

    fn write(&self, to: Pointer, bytes: &[u8]) -> Result<()> {
        self.0.work()?;
        self.0.check(to, bytes.len())?;
        self.0.count(|counts| counts.copies_in += 1);
        // SAFETY: just checked to be memory of this device, which nobody refers to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: Pointer, bytes: &mut [u8]) -> Result<()> {
        self.0.work()?;
        self.0.check(from, bytes.len())?;
        self.0.count(|counts| {
            counts.copies_out += 1;
            counts.waits += 1;
        });
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    fn prepare(&self, frame: Frame) -> Result<Box<dyn Prepared>> {
        let memory = self.0.memory();
        for node in &frame.nodes {
            for (name, pointer) in node.pointers() {
                if pointer != Pointer::NULL && Inner::room(&memory, pointer).is_none() {
                    let kernel = node.kernel;
                    return Err(self.0.lost(format!("{kernel}: {name} is no memory of it")));
                }
            }
        }
        drop(memory);
        Ok(Box::new(SimFrame {
            executor: self.clone(),
            frame,
        }))
    }

    fn check(&self) -> Result<()> {
        match self.0.breaks_in.load(Ordering::SeqCst) {
            0 => Err(self.0.lost("it failed before".into())),
            _ => Ok(()),
        }
    }

    fn free_bytes(&self) -> Option<usize> {
        let used: usize = self.0.memory().values().sum();
        Some(self.0.size.saturating_sub(used))
    }

    fn counts(&self) -> Counts {
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SimFrame {
    executor: SimExecutor,
    frame: Frame,
}

impl Prepared for SimFrame {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        let inner = &self.executor.0;
        self.executor.write(self.frame.input.0, input)?;
        for node in &self.frame.nodes {
            inner.work()?;
            let (args, size) = node.args();
            // SAFETY: `args` are the node's own `size` bytes. Their addresses are of this device's
            // memory (checked when the frame was prepared); that each is as large as the kernel uses
            // it is what the makers of frames see to, and what the sanitizers' run checks.
            let done =
                unsafe { sim::launch_bytes(node.kernel, node.shape, args, size, inner.options) };
            done.map_err(|reason| inner.lost(reason))?;
            inner.count(|counts| {
                counts.kernels += 1;
                counts.launches += 1;
            });
        }
        self.executor.read(self.frame.output.0, output)?;
        inner.count(|counts| counts.frames += 1);
        Ok(())
    }
}

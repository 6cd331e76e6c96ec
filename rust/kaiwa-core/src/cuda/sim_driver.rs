//! The processor as a card: its memory is the host's, its kernels are the simulator's. For tests, on
//! machines without a card.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::args::Pointer;
use super::driver::Driver;
use super::executor::Executor;
use super::frame::Node;
use super::queue::{Mode, QueueExecutor};
use super::sim::{self, Options};
use crate::error::{Error, Result};

/// As on a card.
const ALIGNMENT: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct SimDriver {
    options: Options,
    /// Bytes of every piece of memory, by its address.
    memory: Mutex<BTreeMap<u64, usize>>,
    /// Bytes that can be allocated in all.
    size: usize,
    /// Pieces of work until the device fails for good; negative: never.
    breaks_in: AtomicI64,
    /// What is noted while a graph is captured.
    captured: Mutex<Option<Vec<Work>>>,
}

/// A piece of work: what a card's stream would hold.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Device address, host address, bytes.
    Write(Pointer, usize, usize),
    Read(Pointer, usize, usize),
    Launch(Node),
}

/// An executor on the processor, with what tests do to it.
#[derive(Debug, Clone)]
pub(crate) struct SimExecutor {
    #[cfg(test)]
    driver: Arc<SimDriver>,
    queue: Arc<QueueExecutor<SimDriver>>,
}

impl SimExecutor {
    /// A device with `size` bytes whose threads run in the order of `options`, and that is given
    /// frames in this way.
    pub(crate) fn new(size: usize, options: Options, mode: Mode) -> Self {
        let driver = Arc::new(SimDriver {
            options,
            memory: Mutex::default(),
            size,
            breaks_in: AtomicI64::new(-1),
            captured: Mutex::default(),
        });
        Self {
            queue: Arc::new(QueueExecutor::over(driver.clone(), mode)),
            #[cfg(test)]
            driver,
        }
    }

    /// What runs frames on it.
    pub(crate) fn executor(&self) -> Arc<dyn Executor> {
        self.queue.clone()
    }

    /// Lets the device fail for good after some more pieces of work (an allocation, a copy, a launch).
    #[cfg(test)]
    pub(crate) fn break_in(&self, pieces: i64) {
        self.driver.breaks_in.store(pieces, Ordering::SeqCst);
    }
}

impl SimDriver {
    fn memory(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn captured(&self) -> MutexGuard<'_, Option<Vec<Work>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, reason: String) -> Error {
        self.breaks_in.store(0, Ordering::SeqCst);
        Error::DeviceLost {
            device: "cuda-sim".into(),
            reason,
        }
    }

    /// Counts a piece of work, unless the device is lost by now.
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
    fn room(&self, at: Pointer) -> Option<usize> {
        let memory = self.memory();
        let (start, bytes) = memory.range(..=at.0).next_back()?;
        bytes
            .checked_sub((at.0 - start) as usize)
            .filter(|room| *room > 0)
    }

    /// Whether `bytes` from an address on are memory of this device.
    fn check(&self, at: Pointer, bytes: usize) -> Result<()> {
        match self.room(at) {
            Some(room) if room >= bytes => Ok(()),
            _ => Err(self.lost(format!("a copy of {bytes} bytes outside its memory"))),
        }
    }

    /// Notes a piece of work if a graph is captured, else does it.
    ///
    /// # Safety
    /// As [`Driver::write`], [`Driver::read`] and [`Driver::launch`] say, now and whenever the
    /// graph is launched.
    unsafe fn take(&self, work: Work) -> Result<()> {
        if let Some(noted) = &mut *self.captured() {
            noted.push(work);
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.perform(&work) }
    }

    /// # Safety
    /// As [`Self::take`], now.
    unsafe fn perform(&self, work: &Work) -> Result<()> {
        self.work()?;
        match work {
            Work::Write(to, from, bytes) => {
                self.check(*to, *bytes)?;
                // SAFETY: just checked to be memory of this device; what is read is the caller's
                // promise.
                unsafe {
                    std::ptr::copy_nonoverlapping(*from as *const u8, to.0 as *mut u8, *bytes);
                }
            }
            Work::Read(from, to, bytes) => {
                self.check(*from, *bytes)?;
                // SAFETY: as above.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.0 as *const u8, *to as *mut u8, *bytes);
                }
            }
            Work::Launch(node) => {
                for (name, pointer) in node.pointers() {
                    if pointer != Pointer::NULL && self.room(pointer).is_none() {
                        let kernel = node.kernel;
                        return Err(self.lost(format!("{kernel}: {name} is no memory of it")));
                    }
                }
                let (args, size) = node.args();
                // SAFETY: `args` are the node's own `size` bytes. Their addresses lie in this
                // device's memory (just checked); how much the kernel uses is the caller's promise.
                let done =
                    unsafe { sim::launch_bytes(node.kernel, node.shape, args, size, self.options) };
                done.map_err(|reason| self.lost(reason))?;
            }
        }
        Ok(())
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()
}

fn full() -> Error {
    Error::Backend(candle_core::Error::Msg("out of memory".into()))
}

impl Driver for SimDriver {
    type Kernel = ();
    type Graph = Vec<Work>;

    fn turn<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.breaks_in.load(Ordering::SeqCst) {
            0 => Err(self.lost("it failed before".into())),
            _ => work(),
        }
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.work()?;
        let mut memory = self.memory();
        let used: usize = memory.values().sum();
        if bytes > self.size.saturating_sub(used) {
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
        let held = self.memory().remove(&address);
        debug_assert_eq!(held, Some(bytes));
        if let Some(layout) = held.and_then(layout) {
            // SAFETY: it was among the pieces that `allocate` made with this very layout, and it is
            // not any more.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }

    fn allocate_host(&self, bytes: usize) -> Result<*mut u8> {
        let layout = layout(bytes).ok_or_else(full)?;
        // SAFETY: the layout is of at least one byte.
        let block = unsafe { alloc_zeroed(layout) };
        if block.is_null() {
            Err(full())
        } else {
            Ok(block)
        }
    }

    unsafe fn free_host(&self, block: *mut u8, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: `allocate_host` made it with this layout.
            unsafe { dealloc(block, layout) };
        }
    }

    fn kernel(&self, _name: &'static str, _shared: u32) -> Result<()> {
        Ok(())
    }

    unsafe fn write(&self, to: Pointer, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.take(Work::Write(to, from as usize, bytes)) }
    }

    unsafe fn read(&self, from: Pointer, to: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.take(Work::Read(from, to as usize, bytes)) }
    }

    unsafe fn launch(&self, (): &(), node: &Node) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.take(Work::Launch(node.clone())) }
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        *self.captured() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Vec<Work>> {
        Ok(self.captured().take().unwrap_or_default())
    }

    unsafe fn launch_graph(&self, graph: &Vec<Work>) -> Result<()> {
        for work in graph {
            // SAFETY: the caller's promise.
            unsafe { self.perform(work)? };
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<usize> {
        let used: usize = self.memory().values().sum();
        Some(self.size.saturating_sub(used))
    }
}

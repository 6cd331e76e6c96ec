//! The few calls of a card's driver that executors are made of. A card has one implementation
//! (`card`), the processor another (`sim_driver`), so that what executors do with them is tested
//! without a card.

use std::fmt::Debug;
use std::sync::Arc;

use super::args::Pointer;
use super::frame::Node;
use crate::error::Result;

/// A card with one stream: everything that it is given is done in the order in which it was given.
///
/// The calls from [`Driver::write`] on belong inside [`Driver::turn`].
pub(crate) trait Driver: Debug + Send + Sync + Sized + 'static {
    /// A kernel of the build, ready to be launched.
    type Kernel: Send;
    /// Launches and copies that were captured and are given to the device at once. One that is
    /// dropped is not under way any more.
    type Graph: Send;

    /// Does a piece of work while nobody else gives the device any.
    ///
    /// # Errors
    /// Those of the work; [`crate::Error::DeviceLost`] once the device has failed for good.
    fn turn<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T>;

    /// Memory of zeros that begins at a multiple of 256 bytes; takes a turn of its own.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] without room.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives back memory of [`Self::allocate`]; takes a turn of its own.
    fn free(&self, address: u64, bytes: usize);

    /// A block of zeros of the host's memory that copies of the device can reach at any time.
    fn allocate_host(&self, bytes: usize) -> Result<*mut u8>;

    /// Gives back a block of [`Self::allocate_host`].
    ///
    /// # Safety
    /// It is one, of as many bytes, and no copy to or from it is under way or to come.
    unsafe fn free_host(&self, block: *mut u8, bytes: usize);

    /// The kernel of this name, whose launches have up to `shared` bytes of dynamic shared memory.
    fn kernel(&self, name: &'static str, shared: u32) -> Result<Self::Kernel>;

    /// Gives the device a copy to its memory.
    ///
    /// # Safety
    /// `bytes` from `from` on can be read, and stay as they are until the copy is done: until
    /// [`Self::wait`], or as long as a graph in which it was captured is run.
    unsafe fn write(&self, to: Pointer, from: *const u8, bytes: usize) -> Result<()>;

    /// Gives the device a copy from its memory.
    ///
    /// # Safety
    /// `bytes` from `to` on can be written, and nobody uses them until the copy is done, as there.
    unsafe fn read(&self, from: Pointer, to: *mut u8, bytes: usize) -> Result<()>;

    /// Gives the device a launch.
    ///
    /// # Safety
    /// `kernel` is that of `node`, and every address in its arguments is that of memory of this
    /// device, as large as the kernel uses it.
    unsafe fn launch(&self, kernel: &Self::Kernel, node: &Node) -> Result<()>;

    /// Waits until everything is done that the device was given.
    fn wait(&self) -> Result<()>;

    /// From here to [`Self::end_capture`] what is given is noted and not done.
    fn begin_capture(&self) -> Result<()>;

    /// What was noted. To be called after [`Self::begin_capture`] also if what was given failed.
    fn end_capture(&self) -> Result<Self::Graph>;

    /// Gives the device all of a graph.
    ///
    /// # Safety
    /// What was captured has to be true now: memory and blocks still exist.
    unsafe fn launch_graph(&self, graph: &Self::Graph) -> Result<()>;

    /// Bytes that can still be allocated, where that is known.
    fn free_bytes(&self) -> Option<usize>;
}

/// A block of the host's memory that the device copies to and from.
#[derive(Debug)]
pub(super) struct HostBlock<D: Driver> {
    driver: Arc<D>,
    block: *mut u8,
    bytes: usize,
}

// SAFETY: a block is plain memory that belongs to its owner; drivers are used from any thread.
unsafe impl<D: Driver> Send for HostBlock<D> {}

impl<D: Driver> HostBlock<D> {
    /// Zeros.
    pub(super) fn new(driver: &Arc<D>, bytes: usize) -> Result<Self> {
        Ok(Self {
            block: driver.allocate_host(bytes.max(1))?,
            driver: driver.clone(),
            bytes: bytes.max(1),
        })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.block
    }

    /// Its bytes, while no copy is under way.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: as many bytes were allocated as zeros, and they are borrowed with the block.
        unsafe { std::slice::from_raw_parts_mut(self.block, self.bytes) }
    }
}

impl<D: Driver> Drop for HostBlock<D> {
    fn drop(&mut self) {
        // SAFETY: it is a block of this driver, and executors wait for their copies before they
        // let go of it.
        unsafe { self.driver.free_host(self.block, self.bytes) };
    }
}

//! A CUDA card, through the driver's functions. It shares context, stream and turns with Candle's
//! operators on the same card, so that codec and language model stay in one order.
//!
//! **None of this has run on a card yet.** What executors do with it is tested over the simulator's
//! driver, which has the same calls.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaStream, DriverError, result, sys,
};

use super::args::Pointer;
use super::driver::Driver;
use super::fatbin;
use super::frame::Node;
use crate::device::OpenDevice;
use crate::error::{Error, Result};

/// Dynamic shared memory that a kernel may have without being allowed more.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct CardDriver {
    device: OpenDevice,
    stream: Arc<CudaStream>,
    module: Module,
    /// Kernels that were looked up, with the dynamic shared memory that they were allowed.
    kernels: Mutex<HashMap<&'static str, (Function, u32)>>,
}

/// The loaded kernels.
#[derive(Debug)]
struct Module {
    raw: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a handle of the driver, whose functions take it from any thread that has the context.
unsafe impl Send for Module {}
// SAFETY: as above; nothing is changed through a shared one.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // A card that is gone has nothing to unload.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was loaded in this context, and nobody has its kernels any more: they
            // are kept by frames, which keep the driver.
            let _ = unsafe { result::module::unload(self.raw) };
        }
    }
}

/// A kernel of the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function(sys::CUfunction);

// SAFETY: a handle as above, valid as long as the module.
unsafe impl Send for Function {}

/// A captured frame.
pub(crate) struct Graph {
    context: Arc<CudaContext>,
    raw: sys::CUgraph,
    exec: sys::CUgraphExec,
}

// SAFETY: handles of the driver, used by one thread at a time: by whoever has its turn.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // A card that is gone has nothing to destroy. Every run was waited for.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: both are this graph's own.
            unsafe {
                let _ = result::graph::exec_destroy(self.exec);
                let _ = result::graph::destroy(self.raw);
            }
        }
    }
}

/// The driver's error as one of ours; whether the card is lost is seen at the end of a turn.
fn failed<T>(result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|e| driver_error(&e))
}

fn driver_error(error: &dyn std::fmt::Display) -> Error {
    Error::Backend(candle_core::Error::Msg(error.to_string()))
}

impl CardDriver {
    /// Loads the kernels onto an open card.
    ///
    /// # Errors
    /// [`Error::Backend`] if the driver refuses them, [`Error::DeviceLost`].
    pub(crate) fn new(device: OpenDevice) -> Result<Self> {
        let (stream, raw) = device.turn(|candle| {
            let stream = candle.as_cuda_device()?.cuda_stream();
            let image = fatbin::kernels().as_ptr().cast::<c_void>();
            // SAFETY: the whole file as the compiler wrote it, aligned as its header asks.
            let raw = failed(unsafe { result::module::load_data(image) })?;
            Ok((stream, raw))
        })?;
        Ok(Self {
            module: Module {
                raw,
                context: stream.context().clone(),
            },
            kernels: Mutex::default(),
            stream,
            device,
        })
    }

    fn raw_stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }
}

impl Driver for CardDriver {
    type Kernel = Function;
    type Graph = Graph;

    fn turn<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.device.turn(|_| work())
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.turn(|| {
            // SAFETY: nobody reads the memory before it is filled: the stream keeps the order.
            unsafe {
                let address = failed(result::malloc_sync(bytes))?;
                let filled = result::memset_d8_async(address, 0, bytes, self.raw_stream());
                failed(filled).map(|()| address).inspect_err(|_| {
                    let _ = result::free_sync(address);
                })
            }
        })
    }

    fn free(&self, address: u64, _bytes: usize) {
        // A card that is gone has nothing to free.
        let _ = self.turn(|| {
            // SAFETY: it is memory of `allocate`, and this call waits for work that uses it.
            failed(unsafe { result::free_sync(address) })
        });
    }

    fn allocate_host(&self, bytes: usize) -> Result<*mut u8> {
        self.turn(|| {
            // SAFETY: the driver gives as many bytes or an error; they are filled before use.
            unsafe {
                let block = failed(result::malloc_host(bytes, 0))?.cast::<u8>();
                block.write_bytes(0, bytes);
                Ok(block)
            }
        })
    }

    unsafe fn free_host(&self, block: *mut u8, _bytes: usize) {
        let _ = self.turn(|| {
            // SAFETY: the caller's promise.
            failed(unsafe { result::free_host(block.cast()) })
        });
    }

    fn kernel(&self, name: &'static str, shared: u32) -> Result<Function> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, allowed) = match kernels.get(name) {
            Some(found) => *found,
            None => {
                let text = CString::new(name).map_err(|e| driver_error(&e))?;
                // SAFETY: the module is loaded, and the name ends with a zero.
                let found = unsafe { result::module::get_function(self.module.raw, text) };
                (Function(failed(found)?), SHARED_BY_DEFAULT)
            }
        };
        if shared > allowed {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a kernel of the loaded module.
            failed(unsafe {
                result::function::set_function_attribute(function.0, attribute, shared as i32)
            })?;
        }
        kernels.insert(name, (function, allowed.max(shared)));
        Ok(function)
    }

    unsafe fn write(&self, to: Pointer, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            let from = std::slice::from_raw_parts(from, bytes);
            failed(result::memcpy_htod_async(to.0, from, self.raw_stream()))
        }
    }

    unsafe fn read(&self, from: Pointer, to: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, bytes);
            failed(result::memcpy_dtoh_async(to, from.0, self.raw_stream()))
        }
    }

    unsafe fn launch(&self, kernel: &Function, node: &Node) -> Result<()> {
        let [x, y, z] = node.shape.grid;
        // One parameter, the struct; the driver copies it before it returns.
        let mut parameters = [node.args().0.cast_mut()];
        // SAFETY: the caller's promise; the struct has the layout that the kernel's source has (a
        // test compares them).
        failed(unsafe {
            result::launch_kernel(
                kernel.0,
                (x, y, z),
                (node.shape.block, 1, 1),
                node.shape.shared,
                self.raw_stream(),
                &mut parameters,
            )
        })
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is open.
        failed(unsafe { result::stream::synchronize(self.raw_stream()) })
    }

    fn begin_capture(&self) -> Result<()> {
        // Other threads' calls, of PyTorch say, shall not spoil it.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is open, and nothing of it is under way.
        failed(unsafe { result::stream::begin_capture(self.raw_stream(), mode) })
    }

    fn end_capture(&self) -> Result<Graph> {
        // SAFETY: the stream is open; what it gives is this graph's own from here on.
        unsafe {
            let raw = failed(result::stream::end_capture(self.raw_stream()))?;
            let flags = sys::CUgraphInstantiate_flags(0);
            let exec = failed(result::graph::instantiate(raw, flags)).inspect_err(|_| {
                let _ = result::graph::destroy(raw);
            })?;
            let graph = Graph {
                context: self.stream.context().clone(),
                raw,
                exec,
            };
            failed(result::graph::upload(exec, self.raw_stream()))?;
            Ok(graph)
        }
    }

    unsafe fn launch_graph(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        failed(unsafe { result::graph::launch(graph.exec, self.raw_stream()) })
    }

    fn free_bytes(&self) -> Option<usize> {
        self.device.free_bytes()
    }
}

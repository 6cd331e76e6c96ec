//! Kernels on the processor: the simulator in `cuda/sim`.

use std::ffi::{CStr, CString, c_char, c_void};

use super::args::Args;
pub(crate) use super::shape::Shape;

/// In which order threads run, and controls of tests; see `cuda/sim/block.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Options {
    /// Nonzero: blocks and threads in descending order.
    pub reverse: i32,
    /// This call of `__syncthreads` of each thread does not wait; negative for none.
    pub skip_block_barrier: i32,
    /// The same for barriers of a warp.
    pub skip_warp_barrier: i32,
}

impl Options {
    /// Ascending order, all barriers.
    pub(crate) const FORWARD: Self = Self {
        reverse: 0,
        skip_block_barrier: -1,
        skip_warp_barrier: -1,
    };
    /// Descending order, all barriers.
    pub(crate) const BACKWARD: Self = Self {
        reverse: 1,
        ..Self::FORWARD
    };
}

/// Most barriers that a thread of a launch met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Met {
    pub block_barriers: i32,
    pub warp_barriers: i32,
}

unsafe extern "C" {
    fn kaiwa_sim_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: u64,
        args: *const c_void,
        args_size: u64,
        options: *const Options,
        met: *mut i32,
        error: *mut c_char,
        room: u64,
    ) -> i32;
    #[cfg(test)]
    fn kaiwa_sim_field(
        record: *const c_char,
        index: u64,
        offset: *mut u64,
        size: *mut u64,
        whole: *mut u64,
    ) -> *const c_char;
}

/// Runs the kernel `name` and waits for it.
///
/// # Errors
/// A sentence: no such kernel, or what it did that a card does not forgive (a barrier that not all
/// reach, a vector at an odd address).
///
/// # Safety
/// Every address in `args` must be that of memory as large as the kernel uses it, which nobody
/// else uses meanwhile.
pub(crate) unsafe fn launch<A: Args>(
    name: &str,
    shape: Shape,
    args: &A,
    options: Options,
) -> Result<Met, String> {
    // SAFETY: arguments are plain data of this size; the rest is the caller's promise.
    unsafe {
        launch_bytes(
            name,
            shape,
            (&raw const *args).cast(),
            size_of::<A>(),
            options,
        )
    }
}

/// [`launch`] with arguments of `size` bytes.
///
/// # Safety
/// As there; `args` points to `size` bytes.
pub(crate) unsafe fn launch_bytes(
    name: &str,
    shape: Shape,
    args: *const c_void,
    size: usize,
    options: Options,
) -> Result<Met, String> {
    let name = CString::new(name).map_err(|e| e.to_string())?;
    let mut met = [0; 2];
    let mut error = [0 as c_char; 512];
    // SAFETY: every pointer is to as much as the callee uses: a string, three numbers, `size`
    // bytes, the options, two numbers, `error`. What the kernel's own pointers need is the
    // caller's promise.
    let code = unsafe {
        kaiwa_sim_launch(
            name.as_ptr(),
            shape.grid.as_ptr(),
            shape.block,
            shape.shared.into(),
            args,
            size as u64,
            &raw const options,
            met.as_mut_ptr(),
            error.as_mut_ptr(),
            error.len() as u64,
        )
    };
    if code == 0 {
        let [block_barriers, warp_barriers] = met;
        return Ok(Met {
            block_barriers,
            warp_barriers,
        });
    }
    // SAFETY: the callee ends what it writes with a zero, and the array began as zeros.
    let said = unsafe { CStr::from_ptr(error.as_ptr()) };
    Err(said.to_string_lossy().into_owned())
}

/// Name, offset and size of field `index` of a struct of `cuda/args.h`, and the size of the struct.
#[cfg(test)]
pub(crate) fn field(record: &str, index: usize) -> Option<(String, usize, usize, usize)> {
    let record = CString::new(record).ok()?;
    let (mut offset, mut size, mut whole) = (0u64, 0u64, 0u64);
    // SAFETY: a string and three places for numbers.
    let name = unsafe {
        kaiwa_sim_field(
            record.as_ptr(),
            index as u64,
            &raw mut offset,
            &raw mut size,
            &raw mut whole,
        )
    };
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, so a string that lives as long as the program.
    let name = unsafe { CStr::from_ptr(name) };
    Some((
        name.to_string_lossy().into_owned(),
        offset as usize,
        size as usize,
        whole as usize,
    ))
}

//! Opening a CUDA card: its own stream, its memory pool, its capability, and whether it still works.

use candle_core::cuda_backend::cudarc::driver::{DriverError, sys};
use candle_core::{CudaDevice, Device as CandleDevice};

use super::capability;

/// Opens card `index` on a stream of its own, so that all threads give it work in one order.
///
/// # Errors
/// A sentence: no driver, no such card, or one that this build has no code for.
pub(super) fn open(index: usize) -> Result<CandleDevice, String> {
    let first_line = |e: candle_core::Error| {
        // Candle appends a backtrace where one is asked for.
        e.to_string().lines().next().unwrap_or_default().to_owned()
    };
    let device = CandleDevice::new_cuda_with_stream(index).map_err(first_line)?;
    let card = card(&device).ok_or("it is no CUDA device")?;
    let (major, minor) = capability_of(&card).map_err(|e| e.to_string())?;
    if let Some(refusal) = capability::refusal(&capability::built(), (major, minor)) {
        return Err(refusal);
    }
    // SAFETY: events keep streams of one context apart. All work of this device goes through the
    // one stream that was just made, and its memory is allocated and freed on it, so there is
    // nothing to keep apart.
    unsafe { card.disable_event_tracking() };
    keep_freed_memory(&card).map_err(|e| format!("its memory pool cannot be set up ({e})"))?;
    Ok(device)
}

/// Compute capability of an open card.
fn capability_of(card: &CudaDevice) -> Result<capability::Capability, DriverError> {
    let (major, minor) = card.cuda_stream().context().compute_capability()?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// Lets the pool keep what is freed: giving it back to the driver at every wait, as it does by
/// default, makes every step allocate anew.
fn keep_freed_memory(card: &CudaDevice) -> Result<(), DriverError> {
    let device = card.cuda_stream().context().cu_device();
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: `pool` is written before it is used, the device is open, and the attribute takes a
    // pointer to a 64-bit number.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, device).result()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()
    }
}

/// The card behind a device of Candle's.
fn card(device: &CandleDevice) -> Option<CudaDevice> {
    device.as_cuda_device().ok().cloned()
}

/// Makes the card's context that of this thread: memory is freed on whatever thread drops it.
pub(super) fn bind(device: &CandleDevice) -> Result<(), String> {
    let card = card(device).ok_or("it is no CUDA device")?;
    let bound = card.cuda_stream().context().bind_to_thread();
    bound.map_err(|e| e.to_string())
}

/// Whether the card still takes work. An error of a kernel stays with its context for good: every
/// later call gives it again.
pub(super) fn works(device: &CandleDevice) -> Result<(), String> {
    let card = card(device).ok_or("it is no CUDA device")?;
    let done = card.cuda_stream().synchronize();
    done.map_err(|e| e.to_string())
}

/// Bytes that can still be allocated on the card.
pub(super) fn free_bytes(device: &CandleDevice) -> Option<usize> {
    let card = card(device)?;
    let (free, _) = card.cuda_stream().context().mem_get_info().ok()?;
    Some(free)
}

/// Name and capability of an open card.
pub(super) fn describe(device: &CandleDevice) -> Option<(String, capability::Capability)> {
    let card = card(device)?;
    let name = card.cuda_stream().context().name().ok()?;
    Some((name, capability_of(&card).ok()?))
}

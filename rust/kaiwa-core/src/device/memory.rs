//! How many conversations fit into a device's memory, known before the first begins.

use super::OpenDevice;
use crate::error::{Error, Result};

/// Kept free for what a step needs beside weights and state: activations, workspaces of libraries,
/// other programs' contexts.
const RESERVE: usize = 1 << 30;

/// Refuses slots whose state does not fit beside what the device already holds.
///
/// `slot_bytes` is the state of one slot at its largest.
///
/// # Errors
/// [`Error::SlotsMemory`] with the number of slots that fit.
pub(crate) fn check_slots(device: &OpenDevice, slots: usize, slot_bytes: usize) -> Result<()> {
    let bytes = |slots: usize| slots.saturating_mul(slot_bytes);
    check_free(device.free_bytes(), slots, &bytes)
}

/// [`check_slots`] of a device that has `free` bytes left, where that is known. `bytes` is what some
/// slots take, which is no less for more of them.
pub(crate) fn check_free(
    free: Option<usize>,
    slots: usize,
    bytes: &dyn Fn(usize) -> usize,
) -> Result<()> {
    match free {
        None => Ok(()),
        Some(free) => fits(free, slots, bytes),
    }
}

fn fits(free: usize, slots: usize, bytes: &dyn Fn(usize) -> usize) -> Result<()> {
    let usable = free.saturating_sub(RESERVE);
    let need = bytes(slots);
    if need <= usable {
        return Ok(());
    }
    // The last number that fits and the first that does not close in on each other.
    let (mut most, mut over) = (0, slots);
    while over - most > 1 {
        let middle = most + (over - most) / 2;
        match bytes(middle) <= usable {
            true => most = middle,
            false => over = middle,
        }
    }
    let gigabytes = |bytes: usize| format!("{:.1} GB", bytes as f64 / 1e9);
    Err(Error::SlotsMemory {
        slots,
        need: gigabytes(need),
        available: gigabytes(usable),
        remedy: match most {
            0 => "take a smaller form of the weights (quantize=\"int8\")".into(),
            _ => format!("at most {most} fit: slots={most} (--slots {most})"),
        },
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn too_many_slots_are_refused_with_the_number_that_fits() {
        let size = 1_573_000_000;
        let slot = &|slots: usize| slots.saturating_mul(size);
        assert!(fits(65 * size, 64, slot).is_ok());
        assert!(fits(RESERVE + 32 * size, 32, slot).is_ok());
        let error = fits(RESERVE + 32 * size, 33, slot).unwrap_err().to_string();
        assert!(error.contains("--slots 32"), "{error}");
        assert!(error.contains("33 slots need 51.9 GB"), "{error}");
        let error = fits(RESERVE / 2, 1, slot).unwrap_err().to_string();
        assert!(!error.contains("slots=0"), "{error}");
        // A size that overflows is no size that fits.
        assert!(fits(usize::MAX - 1, usize::MAX, slot).is_err());
        // What a step needs beside the slots counts too.
        let work = &|slots: usize| slots * size + slots.next_power_of_two() * size;
        let error = fits(RESERVE + 9 * size, 6, work).unwrap_err().to_string();
        assert!(error.contains("--slots 4"), "{error}");
    }
}

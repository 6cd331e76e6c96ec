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
    check_free(device.free_bytes(), slots, slot_bytes)
}

/// [`check_slots`] of a device that has `free` bytes left, where that is known.
pub(crate) fn check_free(free: Option<usize>, slots: usize, slot_bytes: usize) -> Result<()> {
    match free {
        None => Ok(()),
        Some(free) => fits(free, slots, slot_bytes),
    }
}

fn fits(free: usize, slots: usize, slot_bytes: usize) -> Result<()> {
    let usable = free.saturating_sub(RESERVE);
    let most = usable / slot_bytes.max(1);
    if slots <= most {
        return Ok(());
    }
    let gigabytes = |bytes: usize| format!("{:.1} GB", bytes as f64 / 1e9);
    Err(Error::SlotsMemory {
        slots,
        need: gigabytes(slots.saturating_mul(slot_bytes)),
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
        let slot = 1_573_000_000;
        assert!(fits(65 * slot, 64, slot).is_ok());
        assert!(fits(RESERVE + 32 * slot, 32, slot).is_ok());
        let error = fits(RESERVE + 32 * slot, 33, slot).unwrap_err().to_string();
        assert!(error.contains("--slots 32"), "{error}");
        assert!(error.contains("33 slots need 51.9 GB"), "{error}");
        let error = fits(RESERVE / 2, 1, slot).unwrap_err().to_string();
        assert!(!error.contains("slots=0"), "{error}");
        // A size that overflows is no size that fits.
        assert!(fits(usize::MAX, usize::MAX, slot).is_err());
    }
}

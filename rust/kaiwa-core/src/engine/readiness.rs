//! Whether an engine takes callers.

use crate::pipeline::GpuBytes;

/// Whether the engine takes callers, as of the last turn.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// `ready`, `full`, `overloaded`, `draining`, `closed`, or `failed`: a device is lost, or a
    /// defect ended the engine; it does not come back.
    pub state: &'static str,
    /// Number of slots.
    pub slots_total: usize,
    /// Slots taken.
    pub slots_used: usize,
    /// Callers waiting.
    pub queue: usize,
    /// 95th percentile of a step with as many rows as there are sessions, in seconds.
    pub step_p95: f64,
    /// The same with one session more.
    pub predicted: f64,
    /// Bytes of running state.
    pub state_bytes: usize,
    /// What lies on graphics cards.
    pub gpu_bytes: GpuBytes,
    /// Why the engine has failed, if it has.
    pub failure: Option<String>,
}

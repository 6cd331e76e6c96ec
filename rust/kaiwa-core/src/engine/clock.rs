//! Time as the engine sees it: seconds since it began. Tests put in a clock that they turn.

use std::time::Instant;

/// Gives seconds that never go back.
pub trait Clock: Send + Sync {
    /// Seconds since some moment before the engine began.
    fn now(&self) -> f64;
}

/// The machine's monotonic clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

//! How fast this machine reads memory: the yardstick for kernels that read every weight once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::arena::Arena;
use super::pool;

/// Bytes per second at which the kernels' threads together read a buffer of `bytes` bytes (in
/// huge pages where the system has them) from front to back: the best of the passes that fit in
/// `seconds`, at least two. The buffer should be much larger than the caches.
pub fn read_bandwidth(bytes: usize, seconds: f64) -> f64 {
    let mut arena = Arena::default();
    let bytes = bytes.max(1 << 20);
    let mut region = arena.take(bytes);
    let part = bytes.div_ceil(pool::threads() * 8).next_multiple_of(64);
    region.bytes_mut().fill(1);
    let data = region.f32s();
    let started = Instant::now();
    let (mut best, mut passes) = (f64::INFINITY, 0);
    while passes < 2 || started.elapsed().as_secs_f64() < seconds {
        let pass = Instant::now();
        let sum = AtomicU64::new(0);
        pool::for_each(data.len().div_ceil(part / 4), |i| {
            let start = i * (part / 4);
            let part = &data[start..(start + part / 4).min(data.len())];
            sum.fetch_add(sum_of(part), Ordering::Relaxed);
        });
        std::hint::black_box(sum);
        best = best.min(pass.elapsed().as_secs_f64());
        passes += 1;
    }
    bytes as f64 / best
}

/// A sum that keeps eight vectors of loads in flight.
fn sum_of(part: &[f32]) -> u64 {
    let mut sums = [0u32; 64];
    for line in part.as_chunks::<64>().0 {
        for (sum, v) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(v.to_bits());
        }
    }
    sums.iter().map(|s| u64::from(*s)).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_rate_is_found() {
        let rate = super::read_bandwidth(8 << 20, 0.01);
        assert!(rate > 1e8 && rate.is_finite(), "{rate}");
    }
}

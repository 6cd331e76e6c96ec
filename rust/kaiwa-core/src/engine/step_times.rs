//! What steps take, by batch size, and what a larger one will take.

use std::collections::VecDeque;

/// Durations kept for each batch size.
const KEPT: usize = 64;
/// Seconds that a verdict on the present load looks back.
const RECENT: f64 = 2.0;

/// Durations of steps.
#[derive(Debug, Default)]
pub struct StepTimes {
    /// By batch size less one: the last durations in seconds.
    by_batch: Vec<VecDeque<f64>>,
    /// (end, duration) of the last steps.
    recent: VecDeque<(f64, f64)>,
    /// When `recent` began to be filled without a gap.
    since: Option<f64>,
}

impl StepTimes {
    /// Times of up to `slots` conversations.
    pub fn new(slots: usize) -> Self {
        Self {
            by_batch: vec![VecDeque::new(); slots],
            ..Self::default()
        }
    }

    /// A step of `batch` rows that took `seconds` has ended at `now`.
    pub fn record(&mut self, now: f64, batch: usize, seconds: f64) {
        if let Some(times) = self.by_batch.get_mut(batch.wrapping_sub(1)) {
            if times.len() == KEPT {
                times.pop_front();
            }
            times.push_back(seconds);
        }
        if self.recent.back().is_none_or(|(end, _)| now - end > 1.0) {
            self.forget_recent();
        }
        self.since.get_or_insert(now - seconds);
        self.recent.push_back((now, seconds));
        while self
            .recent
            .front()
            .is_some_and(|(end, _)| now - end > RECENT)
        {
            self.recent.pop_front();
        }
    }

    /// The 95th percentile of a step with `batch` rows, in seconds: as measured, or between or
    /// beyond what was measured. `None` before any measurement.
    pub fn predict(&self, batch: usize) -> Option<f64> {
        let known = |batch: usize| {
            let times = self.by_batch.get(batch.checked_sub(1)?)?;
            percentile(times.iter().copied(), 0.95)
        };
        if let Some(time) = known(batch) {
            return Some(time);
        }
        let below = (1..batch).rev().find_map(|n| Some((n, known(n)?)));
        let above = (batch + 1..=self.by_batch.len()).find_map(|n| Some((n, known(n)?)));
        let line = |(a, x): (usize, f64), (b, y): (usize, f64)| {
            x + (y - x) * (batch as f64 - a as f64) / (b as f64 - a as f64)
        };
        match (below, above) {
            (Some(below), Some(above)) => Some(line(below, above)),
            // Beyond the largest: along the last two, but never falling.
            (Some((n, time)), None) => {
                let before = (1..n).rev().find_map(|m| Some((m, known(m)?)));
                Some(before.map_or(time, |b| line(b, (n, time)).max(time)))
            }
            (None, Some((_, time))) => Some(time),
            (None, None) => None,
        }
    }

    /// The median of all steps of the last two seconds, if there were steps all the time: above a
    /// frame's length, conversations fall behind for good, while a few slow steps are caught up.
    pub fn recent_median(&self, now: f64) -> Option<f64> {
        let since = self.since?;
        let (last, _) = *self.recent.back()?;
        if now - last > 1.0 || now - since < RECENT {
            return None;
        }
        percentile(self.recent.iter().map(|(_, seconds)| *seconds), 0.5)
    }

    /// Begins the look at the present load anew, as after a measure against it.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
        self.since = None;
    }
}

/// The `part` quantile: the smallest value that so many are not above.
pub fn percentile(values: impl Iterator<Item = f64>, part: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).max(1) - 1;
    sorted.get(at).copied()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn sizes_between_and_beyond_are_estimated() {
        let mut times = StepTimes::new(8);
        assert_eq!(times.predict(3), None);
        times.record(0.0, 1, 0.010);
        assert_eq!(times.predict(8), Some(0.010));
        times.record(0.1, 4, 0.016);
        assert!((times.predict(2).unwrap() - 0.012).abs() < 1e-9);
        assert!((times.predict(8).unwrap() - 0.024).abs() < 1e-9);
        times.record(0.2, 8, 0.015);
        assert!(times.predict(9).unwrap() >= 0.015);
    }

    #[test]
    fn the_percentile_follows_the_last_steps() {
        let mut times = StepTimes::new(1);
        (0..100).for_each(|n| times.record(n as f64 * 0.08, 1, 0.5));
        (0..64).for_each(|n| times.record(8.0 + n as f64 * 0.08, 1, 0.01));
        assert_eq!(times.predict(1), Some(0.01));
        assert_eq!(percentile([3.0, 1.0, 2.0].into_iter(), 0.5), Some(2.0));
        assert_eq!(percentile(std::iter::empty(), 0.5), None);
    }

    #[test]
    fn the_present_load_is_known_after_two_seconds_of_steps() {
        let mut times = StepTimes::new(2);
        for n in 1..=19 {
            times.record(n as f64 * 0.1, 2, 0.1);
            assert_eq!(times.recent_median(n as f64 * 0.1), None, "{n}");
        }
        times.record(2.1, 2, 0.1);
        assert_eq!(times.recent_median(2.1), Some(0.1));
        assert_eq!(times.recent_median(3.5), None);
        times.forget_recent();
        assert_eq!(times.recent_median(2.1), None);
    }
}

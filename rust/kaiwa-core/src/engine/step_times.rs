//! What steps take, by batch size, and what a larger one will take.
//!
//! Two things are kept apart. What a batch *costs* where nothing disturbs it: the shortest time that
//! was measured for its size, which grows with the size and hardly changes. And how long steps take
//! *at present*: those of the last seconds, whatever their size. A prediction takes the present
//! steps and adds what the larger batch costs more, or takes off what a smaller one costs less. So a
//! size that has not come up for long, or that a busy moment made look slow, is judged by what is
//! happening now.

use std::collections::VecDeque;

/// Seconds for which a step counts as present, and the most that are kept.
const PRESENT: f64 = 10.0;
const KEPT: usize = 256;
/// Steps of a size until the shortest of them counts as its cost; some are always disturbed.
const ENOUGH: u32 = 8;
/// Seconds that a verdict on the present load looks back.
const RECENT: f64 = 2.0;

/// A step that was measured.
#[derive(Debug, Clone, Copy)]
struct Step {
    end: f64,
    batch: usize,
    seconds: f64,
}

/// Durations of steps.
#[derive(Debug, Default)]
pub struct StepTimes {
    /// By batch size less one: number of steps, and the shortest, in seconds.
    measured: Vec<(u32, f64)>,
    /// By batch size less one, for one size more than there are slots: what a step costs, filled in
    /// between and beyond what was measured, never falling. Empty before any measurement.
    costs: Vec<f64>,
    /// The last steps.
    present: VecDeque<Step>,
    /// When steps began to follow each other without a gap.
    since: Option<f64>,
}

impl StepTimes {
    /// Times of up to `slots` conversations.
    pub fn new(slots: usize) -> Self {
        Self {
            measured: vec![(0, f64::INFINITY); slots],
            ..Self::default()
        }
    }

    /// A step of `batch` rows takes `seconds`, as was measured on purpose; what was known of the size
    /// before counts no more.
    pub fn measure(&mut self, batch: usize, seconds: f64) {
        if let Some(entry) = self.measured.get_mut(batch.wrapping_sub(1)) {
            *entry = (ENOUGH, seconds);
            self.fill();
        }
    }

    /// A step of `batch` rows that took `seconds` has ended at `now`.
    pub fn record(&mut self, now: f64, batch: usize, seconds: f64) {
        self.learn(batch, seconds);
        if self.present.back().is_none_or(|last| now - last.end > 1.0) {
            self.since = None;
        }
        self.since.get_or_insert(now - seconds);
        if self.present.len() == KEPT {
            self.present.pop_front();
        }
        self.present.push_back(Step {
            end: now,
            batch,
            seconds,
        });
        self.forget_old(now);
    }

    /// Lets go of steps that are no longer present.
    pub fn forget_old(&mut self, now: f64) {
        while self
            .present
            .front()
            .is_some_and(|step| now - step.end > PRESENT)
        {
            self.present.pop_front();
        }
    }

    fn learn(&mut self, batch: usize, seconds: f64) {
        let Some((count, least)) = self.measured.get_mut(batch.wrapping_sub(1)) else {
            return;
        };
        let known = *count >= ENOUGH;
        *count = count.saturating_add(1);
        if seconds < *least || (!known && *count >= ENOUGH) || self.costs.is_empty() {
            *least = least.min(seconds);
            self.fill();
        }
    }

    /// Works `costs` out anew.
    fn fill(&mut self) {
        let mut known: Vec<(usize, f64)> = Vec::new();
        // Without any size of which enough is known, what little there is must do.
        let least_count = match self.measured.iter().any(|(count, _)| *count >= ENOUGH) {
            true => ENOUGH,
            false => 1,
        };
        for (batch, (count, least)) in (1..).zip(&self.measured) {
            if *count >= least_count {
                let floor = known.last().map_or(0.0, |(_, before)| *before);
                known.push((batch, least.max(floor)));
            }
        }
        let line = |(a, x): (usize, f64), (b, y): (usize, f64), batch: usize| {
            x + (y - x) * (batch as f64 - a as f64) / (b as f64 - a as f64)
        };
        self.costs = (1..=self.measured.len() + 1)
            .map(|batch| {
                let above = known.iter().position(|(size, _)| *size >= batch);
                match (above, known.as_slice()) {
                    (_, []) => 0.0,
                    (Some(0), [first, ..]) => first.1,
                    (Some(at), known) => line(known[at - 1], known[at], batch),
                    (None, [.., a, b]) => line(*a, *b, batch),
                    (None, [only]) => only.1,
                }
            })
            .collect();
    }

    /// What a step of `batch` rows costs where nothing disturbs it. `None` before any measurement.
    pub fn cost(&self, batch: usize) -> Option<f64> {
        let last = self.costs.len().checked_sub(1)?;
        self.costs.get(batch.max(1).min(last + 1) - 1).copied()
    }

    /// What a step costs beside its rows: what is saved where two become one. 0 if unknown.
    pub fn fixed(&self) -> f64 {
        match (self.cost(1), self.cost(2)) {
            (Some(one), Some(two)) => (2.0 * one - two).clamp(0.0, one),
            _ => 0.0,
        }
    }

    /// The 95th percentile of a step with `batch` rows, in seconds, if things go on as they are.
    /// `None` before any measurement.
    pub fn predict(&self, batch: usize) -> Option<f64> {
        let cost = self.cost(batch)?;
        // How much longer than undisturbed steps usually take: a slower processor, longer calls.
        let slower = percentile(
            self.present.iter().filter_map(|step| self.slowness(step)),
            0.5,
        );
        let steps = self.present.iter().map(|step| {
            let own = self.cost(step.batch).unwrap_or(cost);
            (step.seconds + slower.unwrap_or(1.0) * (cost - own)).max(0.0)
        });
        percentile(steps, 0.95).or(Some(cost))
    }

    fn slowness(&self, step: &Step) -> Option<f64> {
        let cost = self.cost(step.batch).filter(|cost| *cost > 0.0)?;
        Some((step.seconds / cost).max(1.0))
    }

    /// The median of all steps of the last two seconds, if there were steps all the time: above a
    /// frame's length, conversations fall behind for good, while a few slow steps are caught up.
    pub fn recent_median(&self, now: f64) -> Option<f64> {
        let since = self.since?;
        let last = self.present.back()?.end;
        if now - last > 1.0 || now - since < RECENT {
            return None;
        }
        let recent = self.present.iter().filter(|step| {
            // What a measure was taken against counts no more.
            last - step.end <= RECENT && step.end > since
        });
        percentile(recent.map(|step| step.seconds), 0.5)
    }

    /// Begins the look at the present load anew, as after a measure against it.
    pub fn forget_recent(&mut self) {
        self.since = None;
    }
}

/// The `part` quantile: the smallest value that so many are not above.
pub fn percentile(values: impl Iterator<Item = f64>, part: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    let at = ((values.len() as f64 * part).ceil() as usize).max(1) - 1;
    if at >= values.len() {
        return None;
    }
    Some(*values.select_nth_unstable_by(at, f64::total_cmp).1)
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

    /// Warmed up: 2 ms, and 2 ms a row.
    fn measured(slots: usize) -> StepTimes {
        let mut times = StepTimes::new(slots);
        for size in [1, 2, 4, 8] {
            times.measure(size, 0.002 + 0.002 * size as f64);
        }
        times
    }

    #[test]
    fn what_a_step_costs_beside_its_rows() {
        assert_eq!(StepTimes::new(4).fixed(), 0.0);
        assert!((measured(8).fixed() - 0.002).abs() < 1e-9);
    }

    #[test]
    fn a_disturbed_measurement_of_a_size_does_not_stay() {
        let mut times = measured(8);
        // Three rows came together once, in a busy moment, and never again.
        times.record(0.0, 3, 0.2);
        assert!(times.predict(3).unwrap() > 0.1);
        for n in 1..200 {
            times.record(n as f64 * 0.08, 2, 0.006);
        }
        assert!((times.predict(3).unwrap() - 0.008).abs() < 1e-9);
        // Nor does a busy moment of which nobody is left to tell.
        times.record(16.0, 2, 0.2);
        times.forget_old(30.0);
        assert!((times.predict(2).unwrap() - 0.006).abs() < 1e-9);
        // What is measured anew counts, also if it takes longer.
        times.measure(2, 0.008);
        assert!((times.predict(2).unwrap() - 0.008).abs() < 1e-9);
    }

    #[test]
    fn slower_steps_of_small_batches_tell_of_larger_ones() {
        let mut times = measured(8);
        for n in 0..100 {
            times.record(n as f64 * 0.08, 4, 0.040);
        }
        // Four times what was measured: so will the larger batch be.
        assert!((times.predict(8).unwrap() - (0.040 + 4.0 * 0.008)).abs() < 1e-9);
        // A few slow steps are no more than that, however small the batch.
        let mut times = measured(8);
        for n in 0..100 {
            let seconds = if n % 10 == 0 { 0.030 } else { 0.004 };
            times.record(n as f64 * 0.08, 1, seconds);
        }
        assert!((times.predict(8).unwrap() - (0.030 + 0.014)).abs() < 1e-9);
    }

    #[test]
    fn the_percentile_follows_the_last_steps() {
        let mut times = StepTimes::new(1);
        (0..100).for_each(|n| times.record(n as f64 * 0.08, 1, 0.5));
        assert_eq!(times.predict(1), Some(0.5));
        (0..130).for_each(|n| times.record(8.0 + n as f64 * 0.08, 1, 0.01));
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

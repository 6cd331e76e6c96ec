//! Counters and histograms of an engine (docs/spec/protocols.md 5.9). Written here, read by others.

use std::collections::{BTreeMap, VecDeque};

use super::reason::EndReason;

/// Steps kept for a chart.
const HISTORY: usize = 600;

/// Counts of values by size.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; one more bucket holds the rest.
    pub bounds: &'static [f64],
    /// Values in each bucket, not cumulated; one longer than `bounds`.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Adds a value.
    pub fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|b| *b < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }
}

/// One step, for a chart.
#[derive(Debug, Clone, Copy)]
pub struct StepRecord {
    /// End, in seconds since the engine began.
    pub at: f64,
    /// Rows.
    pub batch: usize,
    /// Duration in seconds.
    pub seconds: f64,
}

const STEP: &[f64] = &[
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.16, 0.32,
];
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0];
const LATENCY: &[f64] = &[
    0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2, 0.24, 0.32, 0.5, 1.0,
];
const OVERHEAD: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.04, 0.08];
const WAIT: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
const CODEC: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08];
const BACKLOG: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0];
const DURATION: &[f64] = &[
    1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 360.0, 900.0, 3600.0,
];

/// Everything that is counted.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Seconds of a step.
    pub step: Histogram,
    /// Rows of a step.
    pub batch: Histogram,
    /// Seconds from a frame's last byte to its answer taken by the caller.
    pub latency: Histogram,
    /// The same less the step that made the answer.
    pub overhead: Histogram,
    /// Seconds from request to slot.
    pub wait: Histogram,
    /// Frames left waiting when a step takes one.
    pub backlog: Histogram,
    /// Seconds of a session.
    pub duration: Histogram,
    /// Seconds by operation: `opus_decode`, `opus_encode`, `mimi_encode`, `lm`, `mimi_decode`.
    pub stages: BTreeMap<&'static str, Histogram>,
    /// Frames taken in and answers made.
    pub frames_in: u64,
    /// Answers made.
    pub frames_out: u64,
    /// Steps that took longer than a frame lasts.
    pub deadline_missed: u64,
    /// Frames of silence put in for callers that sent nothing.
    pub inserted_silence: u64,
    /// Frames of callers that were dropped.
    pub dropped_input: u64,
    /// Answers that were dropped because nobody fetched them.
    pub dropped_output: u64,
    /// Opus packets that could not be decoded.
    pub bad_packets: u64,
    /// Sessions that got a slot.
    pub started: u64,
    /// Sessions that ended, by reason.
    pub ended: BTreeMap<EndReason, u64>,
    /// Callers that were sent away, by reason.
    pub rejected: BTreeMap<EndReason, u64>,
    /// Panics of a step.
    pub panics: u64,
    /// The last steps.
    pub history: VecDeque<StepRecord>,
}

impl Default for Stats {
    fn default() -> Self {
        let stages = [
            "opus_decode",
            "opus_encode",
            "mimi_encode",
            "lm",
            "mimi_decode",
        ];
        Self {
            step: Histogram::new(STEP),
            batch: Histogram::new(BATCH),
            latency: Histogram::new(LATENCY),
            overhead: Histogram::new(OVERHEAD),
            wait: Histogram::new(WAIT),
            backlog: Histogram::new(BACKLOG),
            duration: Histogram::new(DURATION),
            stages: stages.map(|s| (s, Histogram::new(CODEC))).into(),
            frames_in: 0,
            frames_out: 0,
            deadline_missed: 0,
            inserted_silence: 0,
            dropped_input: 0,
            dropped_output: 0,
            bad_packets: 0,
            started: 0,
            ended: BTreeMap::new(),
            rejected: BTreeMap::new(),
            panics: 0,
            history: VecDeque::new(),
        }
    }
}

impl Stats {
    /// A step has ended.
    pub(super) fn stepped(&mut self, record: StepRecord) {
        self.step.record(record.seconds);
        self.batch.record(record.batch as f64);
        if record.seconds > super::pace::FRAME {
            self.deadline_missed += 1;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(record);
    }

    /// An operation took `seconds`.
    pub(super) fn stage(&mut self, name: &'static str, seconds: f64) {
        let histogram = self.stages.entry(name);
        histogram
            .or_insert_with(|| Histogram::new(CODEC))
            .record(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let mut h = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 9.0].iter().for_each(|v| h.record(*v));
        assert_eq!((h.counts.as_slice(), h.sum), (&[2, 2, 1][..], 14.0));
    }

    #[test]
    fn history_is_bounded_and_late_steps_are_counted() {
        let mut stats = Stats::default();
        for n in 0..1000 {
            stats.stepped(StepRecord {
                at: n as f64,
                batch: 1,
                seconds: if n % 10 == 0 { 0.09 } else { 0.01 },
            });
        }
        assert_eq!((stats.history.len(), stats.deadline_missed), (600, 100));
    }
}

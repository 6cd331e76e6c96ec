//! Counters and histograms of an engine, and the table of its metrics. Written here, read by others.

use std::collections::{BTreeMap, VecDeque};

use super::readiness::Readiness;
use super::session::Suspicion;
use crate::pipeline::GpuBytes;

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
    /// Seconds by operation: `opus_decode`, `opus_encode`, and the stages of a step.
    pub stages: BTreeMap<&'static str, Histogram>,
    /// Frames taken in.
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
    /// How often the output of a call has become silent while words came.
    pub silent_output: u64,
    /// How often the words of a call have begun to go round in circles.
    pub looping_output: u64,
    /// Panics, in a step or outside.
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
            stages: stages.map(|s| (s, Histogram::new(CODEC))).into(),
            frames_in: 0,
            frames_out: 0,
            deadline_missed: 0,
            inserted_silence: 0,
            dropped_input: 0,
            dropped_output: 0,
            bad_packets: 0,
            silent_output: 0,
            looping_output: 0,
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

    /// Something is wrong with the output of a call.
    pub(super) fn suspect(&mut self, suspicion: Suspicion) {
        match suspicion {
            Suspicion::Silent => self.silent_output += 1,
            Suspicion::Loop => self.looping_output += 1,
        }
    }

    /// An operation took `seconds`.
    pub(super) fn stage(&mut self, name: &'static str, seconds: f64) {
        let histogram = self.stages.entry(name);
        histogram
            .or_insert_with(|| Histogram::new(CODEC))
            .record(seconds);
    }
}

/// What kind of numbers a metric gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

impl MetricKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A row of [`METRICS`].
#[derive(Debug)]
pub struct Metric {
    /// Name as it is scraped.
    pub name: &'static str,
    /// What kind of numbers it gives.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets; none otherwise.
    pub buckets: &'static [f64],
    /// What it means, and what to look for.
    pub help: &'static str,
    read: Read,
}

/// Reads the values of a metric.
type Read = fn(&Stats, &Readiness) -> Vec<Sample>;
/// Names of labels.
type Labels = &'static [&'static str];

impl Metric {
    const fn counter(name: &'static str, labels: Labels, help: &'static str, read: Read) -> Self {
        let (kind, buckets) = (MetricKind::Counter, &[]);
        Self {
            name,
            kind,
            labels,
            buckets,
            help,
            read,
        }
    }

    const fn gauge(name: &'static str, labels: Labels, help: &'static str, read: Read) -> Self {
        let (kind, buckets) = (MetricKind::Gauge, &[]);
        Self {
            name,
            kind,
            labels,
            buckets,
            help,
            read,
        }
    }

    const fn histogram(
        name: &'static str,
        labels: Labels,
        buckets: &'static [f64],
        help: &'static str,
        read: Read,
    ) -> Self {
        let kind = MetricKind::Histogram;
        Self {
            name,
            kind,
            labels,
            buckets,
            help,
            read,
        }
    }

    /// Its values now.
    pub fn samples(&self, stats: &Stats, readiness: &Readiness) -> Vec<Sample> {
        (self.read)(stats, readiness)
    }
}

/// A value of a metric, for one choice of its labels.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A value for each of the metric's labels, in their order.
    pub labels: Vec<&'static str>,
    /// Of a counter or gauge the number, of a histogram its counts.
    pub value: Value,
}

/// What a [`Sample`] holds.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

/// The one sample of a metric without labels.
fn number(value: f64) -> Vec<Sample> {
    let (labels, value) = (Vec::new(), Value::Number(value));
    vec![Sample { labels, value }]
}

/// The same of a histogram.
fn histogram(value: &Histogram) -> Vec<Sample> {
    let (labels, value) = (Vec::new(), Value::Histogram(value.clone()));
    vec![Sample { labels, value }]
}

/// Frames by direction and what became of them.
fn frames(stats: &Stats) -> Vec<Sample> {
    [
        (["in", "model"], stats.frames_in),
        (["out", "model"], stats.frames_out),
        (["in", "inserted_silence"], stats.inserted_silence),
        (["in", "dropped_input"], stats.dropped_input),
        (["out", "dropped_output"], stats.dropped_output),
    ]
    .map(|(labels, count)| Sample {
        labels: labels.into(),
        value: Value::Number(count as f64),
    })
    .into()
}

/// Calls with suspicious output, by what is wrong.
fn suspicious(stats: &Stats) -> Vec<Sample> {
    [
        ("silent", stats.silent_output),
        ("loop", stats.looping_output),
    ]
    .map(|(kind, count)| Sample {
        labels: vec![kind],
        value: Value::Number(count as f64),
    })
    .into()
}

/// Seconds by operation.
fn stages(stats: &Stats) -> Vec<Sample> {
    let one = |(op, histogram): (&&'static str, &Histogram)| Sample {
        labels: vec![*op],
        value: Value::Histogram(histogram.clone()),
    };
    stats.stages.iter().map(one).collect()
}

/// The metrics of an engine. Readers forward them without knowing them, and the page
/// docs/metrics.md is made from them: a new one is a row here.
pub const METRICS: &[Metric] = &[
    Metric::gauge(
        "kaiwa_slots_total",
        &[],
        "conversations at once",
        |_, readiness| number(readiness.slots_total as f64),
    ),
    Metric::gauge(
        "kaiwa_queue_waiting",
        &[],
        "callers waiting for a slot",
        |_, readiness| number(readiness.queue as f64),
    ),
    Metric::gauge(
        "kaiwa_step_predicted_seconds",
        &[],
        "expected 95th percentile of a step with one conversation more; above the budget nobody is let in",
        |_, readiness| number(readiness.predicted),
    ),
    Metric::gauge(
        "kaiwa_state_bytes",
        &[],
        "running state of all slots: keys and values grow with a call up to the window",
        |_, readiness| number(readiness.state_bytes as f64),
    ),
    Metric::gauge(
        "kaiwa_gpu_memory_bytes",
        &["kind"],
        "what lies on graphics cards: `weights` of the language model, `state` of all slots; 0 of what is on the processor",
        |_, readiness| {
            let GpuBytes { weights, state } = readiness.gpu_bytes;
            let sample = |(kind, bytes)| Sample {
                labels: vec![kind],
                value: Value::Number(bytes as f64),
            };
            [("weights", weights), ("state", state)].map(sample).into()
        },
    ),
    Metric::histogram(
        "kaiwa_step_duration_seconds",
        &[],
        STEP,
        "one step of all sessions that had a frame. 95 % should stay under 0.06",
        |stats, _| histogram(&stats.step),
    ),
    Metric::histogram(
        "kaiwa_step_batch_size",
        &[],
        BATCH,
        "sessions in a step",
        |stats, _| histogram(&stats.batch),
    ),
    Metric::counter(
        "kaiwa_deadline_missed_total",
        &[],
        "steps of more than 80 ms",
        |stats, _| number(stats.deadline_missed as f64),
    ),
    Metric::histogram(
        "kaiwa_frame_latency_seconds",
        &[],
        LATENCY,
        "from a frame's last byte to its answer, handed to the connection",
        |stats, _| histogram(&stats.latency),
    ),
    Metric::histogram(
        "kaiwa_frame_overhead_seconds",
        &[],
        OVERHEAD,
        "the same less the step that made the answer: Opus and waiting",
        |stats, _| histogram(&stats.overhead),
    ),
    Metric::histogram(
        "kaiwa_codec_duration_seconds",
        &["op"],
        CODEC,
        "parts of a step (`mimi_encode`, `lm`, `mimi_decode`, of the whole batch) and Opus (`opus_encode` of one frame, `opus_decode` of one message)",
        |stats, _| stages(stats),
    ),
    Metric::counter(
        "kaiwa_frames_total",
        &["direction", "kind"],
        "frames of 80 ms: `model` (taken in, answered), `inserted_silence`, `dropped_input`, `dropped_output`. Drops below capacity: look at the clients' networks first",
        |stats, _| frames(stats),
    ),
    Metric::histogram(
        "kaiwa_input_backlog_frames",
        &[],
        BACKLOG,
        "frames of a session left waiting at a step; mostly 0",
        |stats, _| histogram(&stats.backlog),
    ),
    Metric::histogram(
        "kaiwa_handshake_wait_seconds",
        &[],
        WAIT,
        "from request to slot",
        |stats, _| histogram(&stats.wait),
    ),
    Metric::counter(
        "kaiwa_opus_bad_packets_total",
        &[],
        "packets that could not be decoded",
        |stats, _| number(stats.bad_packets as f64),
    ),
    Metric::counter(
        "kaiwa_output_suspect_total",
        &["kind"],
        "how often a call's output went wrong though its steps succeed: `silent` (below -60 dBFS for ten seconds in which ten words came), `loop` (a phrase of up to 16 tokens four times in a row, 24 tokens at least)",
        |stats, _| suspicious(stats),
    ),
    Metric::counter(
        "kaiwa_engine_panics_total",
        &[],
        "defects of the engine. One in a step ends its conversations, one elsewhere the engine. Report them",
        |stats, _| number(stats.panics as f64),
    ),
];

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

    #[test]
    fn samples_are_of_the_kind_and_have_the_labels_that_the_table_tells_of() {
        let (stats, readiness) = (Stats::default(), Readiness::default());
        for metric in METRICS {
            let samples = metric.samples(&stats, &readiness);
            assert!(!samples.is_empty(), "{}", metric.name);
            for sample in samples {
                assert_eq!(sample.labels.len(), metric.labels.len(), "{}", metric.name);
                match sample.value {
                    Value::Histogram(h) => assert_eq!(h.bounds, metric.buckets, "{}", metric.name),
                    Value::Number(_) => {
                        assert_ne!(metric.kind, MetricKind::Histogram, "{}", metric.name);
                        assert!(metric.buckets.is_empty(), "{}", metric.name);
                    }
                }
            }
            let counts = metric.kind == MetricKind::Counter;
            assert_eq!(
                counts,
                metric.name.ends_with("_total") && metric.name != "kaiwa_slots_total"
            );
        }
    }
}

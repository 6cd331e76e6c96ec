//! Events, readiness, statistics and metrics of an engine, as frozen classes.

use std::collections::BTreeMap;

use kaiwa_core::engine::{self, Event, Value};
use numpy::PyArray1;
use pyo3::exceptions::{PyIndexError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// `Name(field=value, ...)`, values as Python shows them.
fn show(record: &Bound<'_, PyAny>, name: &str, fields: &[&str]) -> PyResult<String> {
    let field = |field: &&str| Ok(format!("{field}={}", record.getattr(*field)?.repr()?));
    let fields: PyResult<Vec<String>> = fields.iter().map(field).collect();
    Ok(format!("{name}({})", fields?.join(", ")))
}

/// A field by its name, for records that may be read like a mapping.
fn item<'py>(
    record: &Bound<'py, PyAny>,
    names: &[&str],
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    match names.contains(&name) {
        true => record.getattr(name),
        false => Err(PyKeyError::new_err(name.to_owned())),
    }
}

/// A frozen class with a getter for each field, and further methods.
macro_rules! record {
    (
        $(#[$attribute:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }
        $($methods:tt)*
    ) => {
        $(#[$attribute])*
        #[pyclass(frozen, get_all, module = "kaiwa._native")]
        pub struct $name { $($(#[$doc])* $field: $kind,)* }

        impl $name {
            const FIELDS: &[&str] = &[$(stringify!($field)),*];
        }

        #[pymethods]
        impl $name {
            fn __repr__(record: &Bound<'_, Self>) -> PyResult<String> {
                show(record.as_any(), stringify!($name), Self::FIELDS)
            }

            $($methods)*
        }
    };
}

/// The methods of a record that may be read like a mapping.
macro_rules! mapping_record {
    ($($record:tt)*) => {
        record! {
            $($record)*

            fn __getitem__<'py>(record: &Bound<'py, Self>, key: &str) -> PyResult<Bound<'py, PyAny>> {
                item(record.as_any(), Self::FIELDS, key)
            }

            #[pyo3(signature = (key, default=None))]
            fn get<'py>(
                record: &Bound<'py, Self>,
                key: &str,
                default: Option<Bound<'py, PyAny>>,
            ) -> PyResult<Option<Bound<'py, PyAny>>> {
                match Self::FIELDS.contains(&key) {
                    true => record.as_any().getattr(key).map(Some),
                    false => Ok(default),
                }
            }

            /// Names of the fields.
            #[staticmethod]
            fn keys() -> Vec<&'static str> {
                Self::FIELDS.to_vec()
            }
        }
    };
}

record! {
    /// Whether an engine takes callers.
    Readiness {
        /// `ready`, `full`, `overloaded`, `draining`, `closed` or `failed`.
        state: &'static str,
        slots_total: usize,
        slots_used: usize,
        /// Callers waiting for a slot.
        queue: usize,
        /// 95th percentile of a step with the present sessions, in seconds.
        step_p95_seconds: f64,
        /// The same with one session more.
        predicted_seconds: f64,
        /// Bytes of running state of all slots.
        state_bytes: usize,
        /// Why the engine has failed, if it has.
        failure: Option<String>,
        /// Seconds since the engine's thread gave a sign of life; more than five: it is stuck.
        silent_seconds: f64,
        /// Seconds since the engine began.
        now: f64,
    }
}

impl Readiness {
    pub fn new(core: engine::Readiness, silent_seconds: f64, now: f64) -> Self {
        Self {
            state: core.state,
            slots_total: core.slots_total,
            slots_used: core.slots_used,
            queue: core.queue,
            step_p95_seconds: core.step_p95,
            predicted_seconds: core.predicted,
            state_bytes: core.state_bytes,
            failure: core.failure,
            silent_seconds,
            now,
        }
    }
}

mapping_record! {
    /// What is known about a session. Fields can also be read by name, as of a mapping.
    SessionInfo {
        id: u64,
        /// `queued`, `active`, `held`, `paused` or `ended`.
        state: &'static str,
        slot: Option<usize>,
        /// Place in the queue, else 0.
        position: usize,
        /// Seconds since it got its slot.
        seconds: f64,
        frames_in: u64,
        frames_out: u64,
        /// Frames waiting.
        backlog: usize,
        dropped_input: u64,
        dropped_output: u64,
        seed: u64,
    }
}

impl From<engine::SessionInfo> for SessionInfo {
    fn from(core: engine::SessionInfo) -> Self {
        Self {
            id: core.id,
            state: core.state,
            slot: core.slot,
            position: core.position,
            seconds: core.seconds,
            frames_in: core.frames_in,
            frames_out: core.frames_out,
            backlog: core.backlog,
            dropped_input: core.dropped_input,
            dropped_output: core.dropped_output,
            seed: core.seed,
        }
    }
}

record! {
    /// Counts of values by size. Also the tuple of its fields, in order.
    #[derive(Clone)]
    Histogram {
        /// Upper bounds of the buckets, ascending; one more bucket holds the rest.
        bounds: Vec<f64>,
        /// Values in each bucket, not cumulated.
        counts: Vec<u64>,
        /// Sum of all values.
        sum: f64,
    }

    fn __getitem__<'py>(record: &Bound<'py, Self>, index: usize) -> PyResult<Bound<'py, PyAny>> {
        position(record.as_any(), Self::FIELDS, index)
    }

    fn __len__(&self) -> usize {
        Self::FIELDS.len()
    }
}

record! {
    /// One step, for a chart. Also the tuple of its fields, in order.
    #[derive(Clone)]
    StepRecord {
        /// End, in seconds since the engine began.
        at: f64,
        /// Sessions in it.
        batch: usize,
        /// Duration.
        seconds: f64,
    }

    fn __getitem__<'py>(record: &Bound<'py, Self>, index: usize) -> PyResult<Bound<'py, PyAny>> {
        position(record.as_any(), Self::FIELDS, index)
    }

    fn __len__(&self) -> usize {
        Self::FIELDS.len()
    }
}

/// A field by its position, for records that may be unpacked.
fn position<'py>(
    record: &Bound<'py, PyAny>,
    fields: &[&str],
    index: usize,
) -> PyResult<Bound<'py, PyAny>> {
    match fields.get(index) {
        Some(field) => record.getattr(*field),
        None => Err(PyIndexError::new_err(index)),
    }
}

impl From<&engine::Histogram> for Histogram {
    fn from(core: &engine::Histogram) -> Self {
        Self {
            bounds: core.bounds.to_vec(),
            counts: core.counts.clone(),
            sum: core.sum,
        }
    }
}

mapping_record! {
    /// What an engine has counted. Fields can also be read by name, as of a mapping.
    Stats {
        /// Seconds of a step.
        step: Histogram,
        /// Sessions in a step.
        batch: Histogram,
        /// Seconds from a frame's last byte to its answer.
        latency: Histogram,
        /// The same less the step that made the answer.
        overhead: Histogram,
        /// Seconds from request to slot.
        wait: Histogram,
        /// Frames left waiting when a step takes one.
        backlog: Histogram,
        /// Seconds by operation.
        stages: BTreeMap<&'static str, Histogram>,
        frames_in: u64,
        frames_out: u64,
        /// Steps that took longer than a frame lasts.
        deadline_missed: u64,
        inserted_silence: u64,
        dropped_input: u64,
        dropped_output: u64,
        /// Opus packets that could not be decoded.
        bad_packets: u64,
        /// Defects met.
        panics: u64,
        /// The last steps.
        history: Vec<StepRecord>,
    }
}

impl From<engine::Stats> for Stats {
    fn from(core: engine::Stats) -> Self {
        let step = |r: &engine::StepRecord| StepRecord {
            at: r.at,
            batch: r.batch,
            seconds: r.seconds,
        };
        Self {
            step: (&core.step).into(),
            batch: (&core.batch).into(),
            latency: (&core.latency).into(),
            overhead: (&core.overhead).into(),
            wait: (&core.wait).into(),
            backlog: (&core.backlog).into(),
            stages: core.stages.iter().map(|(op, h)| (*op, h.into())).collect(),
            frames_in: core.frames_in,
            frames_out: core.frames_out,
            deadline_missed: core.deadline_missed,
            inserted_silence: core.inserted_silence,
            dropped_input: core.dropped_input,
            dropped_output: core.dropped_output,
            bad_packets: core.bad_packets,
            panics: core.panics,
            history: core.history.iter().map(step).collect(),
        }
    }
}

record! {
    /// A metric of an engine, without values.
    #[derive(Clone)]
    Metric {
        /// As it is scraped.
        name: &'static str,
        /// `counter`, `gauge` or `histogram`.
        kind: &'static str,
        /// Names of its labels.
        labels: Vec<&'static str>,
        /// Upper bounds of a histogram's buckets; none otherwise.
        buckets: Vec<f64>,
        /// What it means, and what to look for.
        help: &'static str,
    }
}

impl From<&engine::Metric> for Metric {
    fn from(core: &engine::Metric) -> Self {
        Self {
            name: core.name,
            kind: core.kind.as_str(),
            labels: core.labels.to_vec(),
            buckets: core.buckets.to_vec(),
            help: core.help,
        }
    }
}

/// The metrics that an engine gives.
pub fn metrics() -> Vec<Metric> {
    engine::METRICS.iter().map(Into::into).collect()
}

record! {
    /// A value of a metric, for one choice of its labels.
    #[derive(Clone)]
    Sample {
        /// A value for each of the metric's labels.
        labels: Vec<&'static str>,
        /// Of a counter or gauge.
        number: Option<f64>,
        /// Of a histogram.
        histogram: Option<Histogram>,
    }
}

record! {
    /// A metric with its values.
    MetricFamily {
        metric: Metric,
        samples: Vec<Sample>,
    }
}

impl From<(&'static engine::Metric, Vec<engine::Sample>)> for MetricFamily {
    fn from((metric, samples): (&'static engine::Metric, Vec<engine::Sample>)) -> Self {
        let sample = |sample: engine::Sample| {
            let (number, histogram) = match &sample.value {
                Value::Number(number) => (Some(*number), None),
                Value::Histogram(histogram) => (None, Some(histogram.into())),
            };
            Sample {
                labels: sample.labels,
                number,
                histogram,
            }
        };
        Self {
            metric: metric.into(),
            samples: samples.into_iter().map(sample).collect(),
        }
    }
}

record! {
    /// A session waits (`queued`), runs (`active`) or stands still (`paused`).
    StateEvent {
        state: &'static str,
        /// Place in the queue, else 0.
        position: usize,
    }
}

record! {
    /// An answer: 1920 samples.
    AudioEvent {
        frame: u64,
        /// float32 at 24 kHz.
        pcm: Py<PyArray1<f32>>,
    }
}

record! {
    /// An answer as whole Ogg pages.
    PagesEvent {
        frame: u64,
        data: Py<PyBytes>,
    }
}

record! {
    /// A text token of an answer, after its audio.
    TextEvent {
        frame: u64,
        token: i32,
    }
}

record! {
    /// Whether nobody speaks in the input up to a frame.
    PauseEvent {
        frame: u64,
        /// 0 to 1, for each stretch of time that the model looks at.
        probabilities: Vec<f32>,
    }
}

record! {
    /// The last event of a session.
    EndEvent {
        /// One of `END_REASONS`.
        reason: &'static str,
        message: String,
    }
}

/// Events as a list of the classes above.
pub fn events<'py>(py: Python<'py>, events: Vec<Event>) -> PyResult<Bound<'py, PyList>> {
    let one = |event| {
        Ok(match event {
            Event::State {
                name: state,
                position,
            } => Bound::new(py, StateEvent { state, position })?.into_any(),
            Event::Audio { frame, pcm } => {
                let pcm = PyArray1::from_vec(py, pcm).unbind();
                Bound::new(py, AudioEvent { frame, pcm })?.into_any()
            }
            Event::Pages { frame, bytes } => {
                let data = PyBytes::new(py, &bytes).unbind();
                Bound::new(py, PagesEvent { frame, data })?.into_any()
            }
            Event::Text { frame, token } => Bound::new(py, TextEvent { frame, token })?.into_any(),
            Event::Pause {
                frame,
                probabilities,
            } => {
                let event = PauseEvent {
                    frame,
                    probabilities,
                };
                Bound::new(py, event)?.into_any()
            }
            Event::End { reason, message } => {
                let reason = reason.as_str();
                Bound::new(py, EndEvent { reason, message })?.into_any()
            }
        })
    };
    let events: PyResult<Vec<_>> = events.into_iter().map(one).collect();
    PyList::new(py, events?)
}

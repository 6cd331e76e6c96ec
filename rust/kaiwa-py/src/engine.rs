//! `Engine`, `Session` and `Notifier`.
//!
//! Methods that only touch a queue keep the interpreter lock: they last microseconds, and the
//! threads behind the queues never want that lock. Those that wait let go of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kaiwa_core::engine::{
    self, Echo, EndReason, Event, Histogram, Pace, SessionOptions, Start, Transport,
};
use kaiwa_core::{Error, engine::Limits};
use numpy::{PyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::arrays::take;
use crate::codec::Mimi;
use crate::error;
use crate::gate::{detached, lock};
use crate::lm::{Moshi, Settings, sampling};

/// Conversations over one model on a thread of their own.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Engine(engine::Engine);

fn options(
    queue: usize,
    step_budget: f64,
    opus_threads: Option<usize>,
    opus_complexity: u8,
    warm_up: bool,
) -> engine::EngineOptions {
    let usual = engine::EngineOptions::default();
    engine::EngineOptions {
        limits: Limits { queue, step_budget },
        opus_threads: opus_threads.unwrap_or(usual.opus_threads),
        opus_complexity,
        warm_up,
    }
}

fn one_of<T>(name: &'static str, got: &str, choices: [(&'static str, T); 2]) -> Result<T, Error> {
    let allowed = format!("\"{}\" or \"{}\"", choices[0].0, choices[1].0);
    let found = choices.into_iter().find(|(word, _)| *word == got);
    found.map(|(_, value)| value).ok_or(Error::OptionValue {
        name,
        got: format!("{got:?}"),
        allowed,
    })
}

/// The words of all reasons for which a session ends.
pub fn end_reasons() -> [&'static str; EndReason::ALL.len()] {
    EndReason::ALL.map(EndReason::as_str)
}

fn end_reason(py: Python<'_>, word: &str) -> PyResult<EndReason> {
    word.parse().map_err(|e| error::to_py(py, &e))
}

fn histogram<'py>(py: Python<'py>, h: &Histogram) -> PyResult<Bound<'py, PyTuple>> {
    (h.bounds.to_vec(), h.counts.clone(), h.sum).into_pyobject(py)
}

#[pymethods]
impl Engine {
    /// Runs a model.
    #[staticmethod]
    #[pyo3(signature = (moshi, mimi, slots, queue, step_budget, opus_complexity, warm_up, opus_threads=None))]
    #[expect(clippy::too_many_arguments, reason = "one argument a setting")]
    fn start(
        py: Python<'_>,
        moshi: &Moshi,
        mimi: &Mimi,
        slots: usize,
        queue: usize,
        step_budget: f64,
        opus_complexity: u8,
        warm_up: bool,
        opus_threads: Option<usize>,
    ) -> PyResult<Self> {
        detached(py, || {
            let pipeline = engine::Duplex::new(mimi.0.clone(), moshi.0.clone(), slots)?;
            let options = options(queue, step_budget, opus_threads, opus_complexity, warm_up);
            Ok(Self(engine::Engine::start(Box::new(pipeline), options)?))
        })
    }

    /// Runs an echo: a step of n rows takes `base + n * per_row` seconds.
    #[staticmethod]
    #[pyo3(signature = (slots, base, per_row, queue, step_budget, opus_complexity, opus_threads=None))]
    #[expect(clippy::too_many_arguments, reason = "one argument a setting")]
    fn start_echo(
        py: Python<'_>,
        slots: usize,
        base: f64,
        per_row: f64,
        queue: usize,
        step_budget: f64,
        opus_complexity: u8,
        opus_threads: Option<usize>,
    ) -> PyResult<Self> {
        detached(py, || {
            let options = options(queue, step_budget, opus_threads, opus_complexity, true);
            let echo = Echo::new(slots, base, per_row)?;
            Ok(Self(engine::Engine::start(Box::new(echo), options)?))
        })
    }

    /// Asks for a session.
    #[pyo3(signature = (seed, settings, transport, pace, server_clock, max_seconds, max_frames, idle_seconds, queue_seconds, notifier=None))]
    #[expect(clippy::too_many_arguments, reason = "one argument a setting")]
    fn open(
        &self,
        py: Python<'_>,
        seed: u64,
        settings: Option<Settings>,
        transport: &str,
        pace: &str,
        server_clock: bool,
        max_seconds: Option<f64>,
        max_frames: Option<u64>,
        idle_seconds: Option<f64>,
        queue_seconds: f64,
        notifier: Option<&Notifier>,
    ) -> PyResult<Session> {
        let open = || {
            let transports = [("pcm", Transport::Pcm), ("opus", Transport::Opus)];
            let paces = [("none", Pace::None), ("realtime", Pace::RealTime)];
            let options = SessionOptions {
                start: Start {
                    seed,
                    sampling: settings.map(sampling),
                },
                transport: one_of("transport", transport, transports)?,
                pace: one_of("pace", pace, paces)?,
                server_clock,
                max_seconds,
                max_frames,
                idle_seconds,
                queue_seconds,
            };
            self.0.open(options, notifier.map(|n| n.0.clone()))
        };
        let session = open().map_err(|e| error::to_py(py, &e))?;
        let wanted_opus = transport == "opus";
        Ok(Session {
            id: session.id(),
            opus: wanted_opus,
            session: Mutex::new(Some(Arc::new(session))),
        })
    }

    /// (state, slots, used, queue, p95, predicted, state bytes, seconds of silence, now).
    fn readiness(&self) -> (&'static str, usize, usize, usize, f64, f64, usize, f64, f64) {
        let r = self.0.readiness();
        let (silent, now) = (self.0.silent_for(), self.0.now());
        (
            r.state,
            r.slots_total,
            r.slots_used,
            r.queue,
            r.step_p95,
            r.predicted,
            r.state_bytes,
            silent,
            now,
        )
    }

    /// Counters by name; histograms as (bounds, counts, sum).
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let s = self.0.stats();
        let out = PyDict::new(py);
        for (name, h) in [
            ("step", &s.step),
            ("batch", &s.batch),
            ("latency", &s.latency),
            ("overhead", &s.overhead),
            ("wait", &s.wait),
            ("backlog", &s.backlog),
            ("duration", &s.duration),
        ] {
            out.set_item(name, histogram(py, h)?)?;
        }
        let stages = PyDict::new(py);
        for (name, h) in &s.stages {
            stages.set_item(name, histogram(py, h)?)?;
        }
        out.set_item("stages", stages)?;
        for (name, value) in [
            ("frames_in", s.frames_in),
            ("frames_out", s.frames_out),
            ("deadline_missed", s.deadline_missed),
            ("inserted_silence", s.inserted_silence),
            ("dropped_input", s.dropped_input),
            ("dropped_output", s.dropped_output),
            ("bad_packets", s.bad_packets),
            ("started", s.started),
            ("panics", s.panics),
        ] {
            out.set_item(name, value)?;
        }
        let by_reason = |counts: &BTreeMap<EndReason, u64>| -> BTreeMap<&'static str, u64> {
            counts.iter().map(|(r, n)| (r.as_str(), *n)).collect()
        };
        out.set_item("ended", by_reason(&s.ended))?;
        out.set_item("rejected", by_reason(&s.rejected))?;
        let history: Vec<(f64, usize, f64)> = s
            .history
            .iter()
            .map(|r| (r.at, r.batch, r.seconds))
            .collect();
        out.set_item("history", history)?;
        Ok(out)
    }

    /// Figures of every session that has not ended.
    fn sessions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let infos = self.0.sessions();
        let dicts: PyResult<Vec<_>> = infos.iter().map(|i| describe(py, i)).collect();
        PyList::new(py, dicts?)
    }

    /// Ends a session from outside; false if there is none of this number.
    #[pyo3(signature = (number, message, reason="closed"))]
    fn end_session(
        &self,
        py: Python<'_>,
        number: u64,
        message: &str,
        reason: &str,
    ) -> PyResult<bool> {
        let reason = end_reason(py, reason)?;
        Ok(self.0.end_session(number, reason, message))
    }

    /// Takes nobody new; sessions go on.
    fn drain(&self) {
        self.0.drain();
    }

    /// Ends every session and the thread, and waits for it.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || {
            self.0.close();
            Ok(())
        })
    }
}

fn describe<'py>(py: Python<'py>, i: &engine::SessionInfo) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("id", i.id)?;
    out.set_item("state", i.state)?;
    out.set_item("slot", i.slot)?;
    out.set_item("position", i.position)?;
    out.set_item("seconds", i.seconds)?;
    out.set_item("frames_in", i.frames_in)?;
    out.set_item("frames_out", i.frames_out)?;
    out.set_item("backlog", i.backlog)?;
    out.set_item("dropped_input", i.dropped_input)?;
    out.set_item("dropped_output", i.dropped_output)?;
    out.set_item("seed", i.seed)?;
    Ok(out)
}

/// A caller's hold on one session.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Session {
    id: u64,
    opus: bool,
    /// Shared for the length of a call, so that a waiting thread does not keep others out.
    session: Mutex<Option<Arc<engine::Session>>>,
}

impl Session {
    fn get(&self, py: Python<'_>) -> PyResult<Arc<engine::Session>> {
        let session = lock(&self.session).clone();
        let session = session.ok_or_else(|| error::to_py(py, &Error::SessionEnded))?;
        session.same_process().map_err(|e| error::to_py(py, &e))?;
        Ok(session)
    }
}

fn give<'py>(py: Python<'py>, events: Vec<Event>) -> PyResult<Bound<'py, PyList>> {
    let one = |event| match event {
        Event::State { name, position } => ("state", name, position).into_pyobject(py),
        Event::Audio { frame, pcm } => {
            ("audio", frame, PyArray1::from_vec(py, pcm)).into_pyobject(py)
        }
        Event::Pages { frame, bytes } => {
            ("pages", frame, PyBytes::new(py, &bytes)).into_pyobject(py)
        }
        Event::Text { frame, token } => ("text", frame, token).into_pyobject(py),
        Event::End { reason, message } => ("end", reason.as_str(), message).into_pyobject(py),
    };
    let tuples: PyResult<Vec<Bound<'py, PyTuple>>> = events.into_iter().map(one).collect();
    PyList::new(py, tuples?)
}

/// A wait that Python asked for; at most some days, so that no sum overflows.
fn seconds(timeout: f64) -> Duration {
    Duration::from_secs_f64(timeout.clamp(0.0, 1e6))
}

#[pymethods]
impl Session {
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }
    /// Whether audio crosses as Opus.
    #[getter]
    fn opus(&self) -> bool {
        self.opus
    }

    /// Takes samples.
    fn send_pcm(&self, py: Python<'_>, pcm: PyReadonlyArrayDyn<'_, f32>) -> PyResult<()> {
        let (data, [_]) = take(py, "pcm", &pcm)?;
        let session = self.get(py)?;
        session.send_pcm(&data).map_err(|e| error::to_py(py, &e))
    }

    /// Takes bytes of an Ogg/Opus stream.
    fn send_bytes(&self, py: Python<'_>, data: Vec<u8>) -> PyResult<()> {
        let session = self.get(py)?;
        session.send_bytes(data).map_err(|e| error::to_py(py, &e))
    }

    /// What has happened since the last call.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        give(py, self.get(py)?.events())
    }

    /// Waits up to `timeout` seconds until `events` has something; false if there is nothing.
    fn wait_ready(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let session = self.get(py)?;
        detached(py, || Ok(session.wait_ready(seconds(timeout))))
    }

    fn has_room(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.get(py)?.has_room())
    }

    fn wait_room(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let session = self.get(py)?;
        detached(py, || Ok(session.wait_room(seconds(timeout))))
    }

    fn bad_messages(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.get(py)?.bad_messages())
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        self.get(py)?.finish();
        Ok(())
    }

    fn pause(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.get(py)?.pause(paused);
        Ok(())
    }

    /// Keeps the slot for a while after a lost connection.
    fn hold(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        Ok(self.get(py)?.hold(seconds))
    }

    #[pyo3(signature = (notifier=None))]
    fn take_up(&self, py: Python<'_>, notifier: Option<&Notifier>) -> PyResult<bool> {
        Ok(self.get(py)?.take_up(notifier.map(|n| n.0.clone())))
    }

    fn ended(&self) -> bool {
        let session = lock(&self.session).clone();
        session.is_none_or(|s| s.ended())
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        describe(py, &self.get(py)?.info())
    }

    /// Asks for the end; its event can still be fetched.
    #[pyo3(signature = (reason="client", message=""))]
    fn close(&self, py: Python<'_>, reason: &str, message: &str) -> PyResult<()> {
        let reason = end_reason(py, reason)?;
        self.get(py)?.close(reason, message);
        Ok(())
    }

    /// Lets go of the session, which ends it.
    fn release(&self) {
        lock(&self.session).take();
    }
}

/// Tells an event loop which sessions have something.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Notifier(Arc<engine::Notifier>);

#[pymethods]
impl Notifier {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let inner = engine::Notifier::new().map_err(|e| error::to_py(py, &e))?;
        Ok(Self(inner))
    }

    /// The file descriptor that is readable while there is something; `None` if there is none.
    fn descriptor(&self) -> Option<i32> {
        self.0.descriptor()
    }

    /// Numbers of the sessions that have something, since the last call.
    fn take(&self) -> Vec<u64> {
        self.0.take()
    }

    /// `take`, waiting up to `timeout` seconds.
    fn wait(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<u64>> {
        detached(py, || Ok(self.0.wait(seconds(timeout))))
    }
}

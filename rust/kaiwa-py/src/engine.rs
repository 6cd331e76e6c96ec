//! `Engine`, `Session` and `Notifier`.
//!
//! Methods that only touch a queue keep the interpreter lock: they last microseconds, and the
//! threads behind the queues never want that lock. Those that wait let go of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kaiwa_core::Error;
use kaiwa_core::engine::{self, EndReason, Limits, Pace, SessionOptions, Transport};
use kaiwa_core::pipeline::{self, Echo, Start};
use numpy::PyReadonlyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::arrays::take;
use crate::codec::Mimi;
use crate::error;
use crate::gate::{detached, lock};
use crate::lm::{Moshi, Settings, sampling};
use crate::records::{MetricFamily, Readiness, SessionInfo, Stats, events};

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
    let defaults = engine::EngineOptions::default();
    engine::EngineOptions {
        limits: Limits { queue, step_budget },
        opus_threads: opus_threads.unwrap_or(defaults.opus_threads),
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
            let pipeline = pipeline::of_model(mimi.0.clone(), moshi.0.clone(), slots)?;
            let options = options(queue, step_budget, opus_threads, opus_complexity, warm_up);
            Ok(Self(engine::Engine::start(pipeline, options)?))
        })
    }

    /// Runs an echo: a step of n rows takes `base + n * per_row` seconds. With `lost_after` its
    /// device is lost after so many steps; it then does not warm up, which would count.
    #[staticmethod]
    #[pyo3(signature = (slots, base, per_row, queue, step_budget, opus_complexity, opus_threads=None, lost_after=None))]
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
        lost_after: Option<u64>,
    ) -> PyResult<Self> {
        detached(py, || {
            let warm_up = lost_after.is_none();
            let options = options(queue, step_budget, opus_threads, opus_complexity, warm_up);
            let echo = Echo::new(slots, base, per_row)?.losing_device_after(lost_after);
            Ok(Self(engine::Engine::start(Box::new(echo), options)?))
        })
    }

    /// An engine without a thread, and what turns it; see `kaiwa_core::engine::ByHand`.
    #[staticmethod]
    fn start_by_hand(
        py: Python<'_>,
        slots: usize,
        queue: usize,
        step_budget: f64,
    ) -> PyResult<(Self, ByHand)> {
        let options = options(queue, step_budget, Some(1), 0, true);
        let (engine, hand) =
            engine::Engine::by_hand(slots, options).map_err(|e| error::to_py(py, &e))?;
        Ok((Self(engine), ByHand(Mutex::new(hand))))
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

    /// Whether the engine takes callers.
    fn readiness(&self) -> Readiness {
        let (silent, now) = (self.0.seconds_since_heartbeat(), self.0.now());
        Readiness::new(self.0.readiness(), silent, now)
    }

    /// What was counted.
    fn stats(&self) -> Stats {
        self.0.stats().into()
    }

    /// Every metric with its values now.
    fn metrics(&self) -> Vec<MetricFamily> {
        self.0.metrics().into_iter().map(Into::into).collect()
    }

    /// What is known about every session that has not ended.
    fn sessions(&self) -> Vec<SessionInfo> {
        self.0.sessions().into_iter().map(Into::into).collect()
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

/// Turns an engine that has no thread: for simulations.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct ByHand(Mutex<engine::ByHand>);

#[pymethods]
impl ByHand {
    /// Turns the clock to `now` and does nothing else.
    fn tick(&self, now: f64) {
        lock(&self.0).tick(now);
    }

    /// Turns the clock to `now` and does what is to be done then; when there is more to do, or
    /// `None` once the engine is closed.
    fn turn(&self, now: f64) -> Option<f64> {
        lock(&self.0).turn(now)
    }

    /// Whether something woke the engine since its last turn.
    fn woken(&self) -> bool {
        lock(&self.0).woken()
    }

    /// From now on a step of n rows takes `base + n * per_row` seconds.
    fn set_step_seconds(&self, base: f64, per_row: f64) {
        lock(&self.0).set_step_seconds(base, per_row);
    }

    /// What becomes of the next step: `error`, `panic`, `device` or `row`.
    fn set_fault(&self, py: Python<'_>, fault: &str) -> PyResult<()> {
        let fault = match fault {
            "error" => engine::Fault::Error,
            "panic" => engine::Fault::Panic,
            "device" => engine::Fault::Device,
            "row" => engine::Fault::Row,
            other => {
                let error = Error::OptionValue {
                    name: "fault",
                    got: format!("{other:?}"),
                    allowed: "\"error\", \"panic\", \"device\" or \"row\"".into(),
                };
                return Err(error::to_py(py, &error));
            }
        };
        lock(&self.0).set_fault(fault);
        Ok(())
    }

    /// Rows of all steps since the last call: slot, seed of the conversation, first two samples.
    fn take_steps(&self) -> Vec<(usize, u64, f32, f32)> {
        let rows = lock(&self.0).take_steps();
        let row = |r: engine::SteppedRow| (r.slot, r.seed, r.head[0], r.head[1]);
        rows.into_iter().map(row).collect()
    }
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
        events(py, self.get(py)?.events())
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

    fn clear_input(&self, py: Python<'_>) -> PyResult<()> {
        self.get(py)?.clear_input();
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

    /// Resumes a held session on a new connection.
    #[pyo3(signature = (notifier=None))]
    fn resume(&self, py: Python<'_>, notifier: Option<&Notifier>) -> PyResult<bool> {
        Ok(self.get(py)?.resume(notifier.map(|n| n.0.clone())))
    }

    fn ended(&self) -> bool {
        let session = lock(&self.session).clone();
        session.is_none_or(|s| s.ended())
    }

    /// What is known about the session.
    fn info(&self, py: Python<'_>) -> PyResult<SessionInfo> {
        Ok(self.get(py)?.info().into())
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

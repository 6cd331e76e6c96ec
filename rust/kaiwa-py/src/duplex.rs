//! `Duplex`.

use std::sync::Mutex;

use kaiwa_core::pipeline::{self, Pipeline};
use numpy::{PyArray1, PyArray2, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::arrays::{give2, take};
use crate::codec::Mimi;
use crate::gate::{detached, lock};
use crate::lm::{Moshi, Settings, sampling};
use crate::lm_rows as rows;

/// Conversations of one language model and its codec, stepped by the caller.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Duplex {
    slots: usize,
    duplex: Mutex<pipeline::Duplex>,
}

#[pymethods]
impl Duplex {
    /// A conversation for each of `seeds`.
    #[new]
    fn new(
        py: Python<'_>,
        moshi: &Moshi,
        mimi: &Mimi,
        seeds: Vec<u64>,
        settings: Vec<Settings>,
        prime: bool,
    ) -> PyResult<Self> {
        detached(py, || {
            let settings: Vec<_> = settings.into_iter().map(sampling).collect();
            let (mimi, moshi) = (mimi.0.clone(), moshi.0.clone());
            let duplex = pipeline::Duplex::with(mimi, moshi, &seeds, &settings, prime)?;
            Ok(Self {
                slots: seeds.len(),
                duplex: Mutex::new(duplex),
            })
        })
    }

    #[getter]
    fn slots(&self) -> usize {
        self.slots
    }

    #[getter]
    fn seeds(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        detached(py, || Ok(lock(&self.duplex).lm().seeds()))
    }

    #[getter]
    fn state_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        detached(py, || Ok(lock(&self.duplex).state_bytes()))
    }

    /// Seconds of each stage since the beginning.
    #[getter]
    fn stage_seconds(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, f64)>> {
        detached(py, || Ok(lock(&self.duplex).total_stage_seconds().to_vec()))
    }

    /// The next frame of every active slot: audio `[slots, frame_size]`, text `[slots]`, ready
    /// `[slots]`.
    #[pyo3(signature = (pcm, active, force_text=None))]
    #[expect(clippy::type_complexity, reason = "three arrays")]
    fn step<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'_, f32>,
        active: Vec<bool>,
        force_text: Option<PyReadonlyArrayDyn<'_, i64>>,
    ) -> PyResult<(
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyArray1<i32>>,
        Bound<'py, PyArray1<bool>>,
    )> {
        let (pcm, [frames, size]) = take(py, "pcm", &pcm)?;
        let force_text = match &force_text {
            Some(tokens) => Some(take::<_, 1>(py, "force_text", tokens)?.0),
            None => None,
        };
        let slots = self.slots;
        let (out, on) = detached(py, || {
            let mut duplex = lock(&self.duplex);
            let text_card = duplex.lm().moshi().config().text_card;
            let on = rows::active(Some(&active), slots)?;
            let frames = rows::frames(&pcm, [frames, size], &on, slots)?;
            let forced = force_text.as_deref();
            let forced = rows::forced("force_text", forced, &on, (slots, 1), text_card)?;
            Ok((duplex.step_rows(&on, &frames, &forced)?, on))
        })?;
        let audio = rows::spread(&out.audio, &on, slots, size, 0.0);
        let text = rows::spread_tokens(&out.text, &on, slots, 1);
        let ready = rows::spread(&out.ready, &on, slots, 1, false);
        Ok((
            give2(py, audio, [slots, size])?,
            PyArray1::from_vec(py, text),
            PyArray1::from_vec(py, ready),
        ))
    }

    /// Begins new conversations in some slots (all if `None`).
    #[pyo3(signature = (slots=None))]
    fn reset(&self, py: Python<'_>, slots: Option<Vec<usize>>) -> PyResult<()> {
        detached(py, || lock(&self.duplex).reset(slots.as_deref()))
    }

    fn set_seed(&self, py: Python<'_>, slot: usize, seed: u64) -> PyResult<()> {
        detached(py, || lock(&self.duplex).lm_mut().set_seed(slot, seed))
    }

    #[pyo3(signature = (slot, name, value=None))]
    fn set_condition(
        &self,
        py: Python<'_>,
        slot: usize,
        name: String,
        value: Option<String>,
    ) -> PyResult<()> {
        detached(py, || {
            let mut duplex = lock(&self.duplex);
            duplex.lm_mut().set_condition(slot, &name, value.as_deref())
        })
    }
}

//! `Resampler`.

use std::sync::Mutex;

use kaiwa_core::audio;
use numpy::{PyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::arrays::take;
use crate::gate::{detached, lock};

/// Sample-rate conversion of one channel.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Resampler(Mutex<audio::Resampler>);

#[pymethods]
impl Resampler {
    #[new]
    fn new(py: Python<'_>, from_rate: usize, to_rate: usize) -> PyResult<Self> {
        let inner = detached(py, || audio::Resampler::new(from_rate, to_rate))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Takes samples and gives those that are ready.
    fn process<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let (data, [_]) = take(py, "pcm", &pcm)?;
        let out = detached(py, || lock(&self.0).process(&data))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Gives the rest and returns to the beginning.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let out = detached(py, || lock(&self.0).finish())?;
        Ok(PyArray1::from_vec(py, out))
    }
}

//! `Mimi` and `MimiStream`.

use std::path::PathBuf;
use std::sync::Mutex;

use kaiwa_core::Error;
use kaiwa_core::codec::{self, MimiConfig, WeightType, Window};
use kaiwa_core::device::Device;
use numpy::{PyArray2, PyArray3, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::arrays::{give2, give3, take};
use crate::gate::{detached, detached_long, lock};

/// Weights of the codec, shared by the streams made from it.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Mimi(pub(crate) codec::Mimi);

#[pymethods]
impl Mimi {
    /// Loads a safetensors file.
    #[staticmethod]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        config_json: Option<String>,
        num_codebooks: usize,
        device: String,
        dtype: String,
    ) -> PyResult<Self> {
        detached(py, || {
            let config = match config_json {
                Some(text) => MimiConfig::from_json(&text)?,
                None => MimiConfig::default(),
            };
            let (device, dtype) = (Device::parse(&device)?, WeightType::parse(&dtype)?);
            Ok(Self(codec::Mimi::load(
                &path,
                config,
                num_codebooks,
                device,
                dtype,
            )?))
        })
    }

    #[getter]
    fn sample_rate(&self) -> usize {
        self.0.config().sample_rate
    }
    #[getter]
    fn frame_rate(&self) -> f64 {
        self.0.config().frame_rate
    }
    #[getter]
    fn frame_size(&self) -> usize {
        self.0.config().frame_size()
    }
    #[getter]
    fn num_codebooks(&self) -> usize {
        self.0.num_codebooks()
    }
    #[getter]
    fn max_codebooks(&self) -> usize {
        self.0.config().quantizer.n_q
    }
    #[getter]
    fn cardinality(&self) -> usize {
        self.0.config().quantizer.bins
    }
    #[getter]
    fn dimension(&self) -> usize {
        self.0.config().seanet.dimension
    }
    #[getter]
    fn device(&self) -> String {
        self.0.device().name()
    }
    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.dtype().name()
    }

    /// `[batch, samples]` to codes `[batch, num_codebooks, frames]`.
    #[pyo3(signature = (pcm, progress=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyArray3<i32>>> {
        let (data, [batch, samples]) = take(py, "pcm", &pcm)?;
        let codes = detached_long(py, progress, |hook| self.0.encode(&data, batch, hook))?;
        let frames = samples.div_ceil(self.frame_size());
        give3(py, codes, [batch, self.num_codebooks(), frames])
    }

    /// `[batch, samples]` to latents `[batch, dimension, frames]`.
    #[pyo3(signature = (pcm, progress=None))]
    fn encode_to_latent<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let (data, [batch, samples]) = take(py, "pcm", &pcm)?;
        let latent = detached_long(py, progress, |hook| {
            self.0.encode_to_latent(&data, batch, hook)
        })?;
        let frames = samples.div_ceil(self.frame_size());
        give3(py, latent, [batch, self.dimension(), frames])
    }

    /// Codes `[batch, codebooks, frames]` to `[batch, samples]`.
    #[pyo3(signature = (codes, progress=None))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        codes: PyReadonlyArrayDyn<'py, i64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (data, shape) = take(py, "codes", &codes)?;
        let [batch, books, frames] = shape;
        let pcm = detached_long(py, progress, |hook| {
            narrow(&data, shape, |codes| {
                self.0.decode(codes, batch, books, hook)
            })
        })?;
        give2(py, pcm, [batch, frames * self.frame_size()])
    }

    /// A stream of `slots` independent conversations.
    fn stream(&self, py: Python<'_>, slots: usize, window: String) -> PyResult<MimiStream> {
        detached(py, || {
            let stream = self.0.stream(slots, Window::parse(&window)?)?;
            Ok(MimiStream {
                slots,
                stream: Mutex::new(stream),
            })
        })
    }
}

/// Runs `work` on codes `[rows, codebooks, frames]` in the core's width. Codes that do not fit are
/// outside every codebook, and so are what they become here; the error names the code as passed.
fn narrow<R>(
    codes: &[i64],
    [_, codebooks, frames]: [usize; 3],
    work: impl FnOnce(&[i32]) -> kaiwa_core::Result<R>,
) -> kaiwa_core::Result<R> {
    let clamp = |code: &i64| (*code).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    let narrow: Vec<i32> = codes.iter().map(clamp).collect();
    work(&narrow).map_err(|mut error| {
        if let Error::CodeRange {
            row,
            codebook,
            frame,
            value,
            ..
        } = &mut error
        {
            *value = codes[(*row * codebooks + *codebook) * frames + *frame];
        }
        error
    })
}

/// Running state of the conversations over one `Mimi`.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct MimiStream {
    slots: usize,
    stream: Mutex<codec::MimiStream>,
}

#[pymethods]
impl MimiStream {
    #[getter]
    fn slots(&self) -> usize {
        self.slots
    }
    #[getter]
    fn state_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        detached(py, || Ok(lock(&self.stream).state_bytes()))
    }

    /// `[slots, frames * frame_size]` to codes `[slots, num_codebooks, frames]`.
    #[pyo3(signature = (pcm, active=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
        active: Option<Vec<bool>>,
    ) -> PyResult<Bound<'py, PyArray3<i32>>> {
        let (data, [rows, samples]) = take(py, "pcm", &pcm)?;
        let (codes, books, size) = detached(py, || {
            let mut stream = lock(&self.stream);
            let codes = stream.encode(&data, active.as_deref())?;
            let mimi = stream.mimi();
            Ok((codes, mimi.num_codebooks(), mimi.config().frame_size()))
        })?;
        give3(py, codes, [rows, books, samples / size])
    }

    /// Codes `[slots, codebooks, frames]` to `[slots, frames * frame_size]`.
    #[pyo3(signature = (codes, active=None))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        codes: PyReadonlyArrayDyn<'py, i64>,
        active: Option<Vec<bool>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (data, shape) = take(py, "codes", &codes)?;
        let [rows, books, frames] = shape;
        let (pcm, size) = detached(py, || {
            let mut stream = lock(&self.stream);
            let pcm = narrow(&data, shape, |codes| {
                stream.decode(codes, books, active.as_deref())
            })?;
            Ok((pcm, stream.mimi().config().frame_size()))
        })?;
        give2(py, pcm, [rows, frames * size])
    }

    /// Returns slots (all if `None`) to their beginning.
    #[pyo3(signature = (slots=None))]
    fn reset(&self, py: Python<'_>, slots: Option<Vec<usize>>) -> PyResult<()> {
        detached(py, || lock(&self.stream).reset(slots.as_deref()))
    }
}

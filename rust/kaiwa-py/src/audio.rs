//! `Resampler`, samples with a coding, `OggOpusWriter` and `OggOpusReader`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kaiwa_core::Error;
use kaiwa_core::audio::g711::Law;
use kaiwa_core::audio::{self, Coding};
use numpy::{PyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays::take;
use crate::error;
use crate::gate::{detached, lock};

/// Sample-rate conversion of one channel.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Resampler(Mutex<audio::Resampler>);

#[pymethods]
impl Resampler {
    #[new]
    #[pyo3(signature = (from_rate, to_rate, low_delay=false))]
    fn new(py: Python<'_>, from_rate: usize, to_rate: usize, low_delay: bool) -> PyResult<Self> {
        let made = match low_delay {
            true => audio::Resampler::low_delay,
            false => audio::Resampler::new,
        };
        let inner = detached(py, || made(from_rate, to_rate))?;
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

/// What a coding's name means.
fn coding(py: Python<'_>, name: &str) -> PyResult<Coding> {
    match name {
        "pcm" => Ok(Coding::Pcm16),
        "mulaw" => Ok(Coding::G711(Law::Mu)),
        "alaw" => Ok(Coding::G711(Law::A)),
        other => {
            let error = Error::OptionValue {
                name: "coding",
                got: format!("{other:?}"),
                allowed: "\"pcm\", \"mulaw\" or \"alaw\"".into(),
            };
            Err(error::to_py(py, &error))
        }
    }
}

/// Samples at 24 kHz from bytes with a coding and a rate.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct CodedReader(Mutex<audio::CodedReader>);

#[pymethods]
impl CodedReader {
    #[new]
    fn new(py: Python<'_>, coding: &str, rate: usize) -> PyResult<Self> {
        let coding = self::coding(py, coding)?;
        let inner = detached(py, || audio::CodedReader::new(coding, rate))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Takes bytes, cut anywhere, and gives the samples that are ready.
    fn read<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let out = detached(py, || lock(&self.0).read(data))?;
        Ok(PyArray1::from_vec(py, out))
    }
}

/// Bytes with a coding and a rate from samples at 24 kHz.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct CodedWriter(Mutex<audio::CodedWriter>);

#[pymethods]
impl CodedWriter {
    #[new]
    fn new(py: Python<'_>, coding: &str, rate: usize) -> PyResult<Self> {
        let coding = self::coding(py, coding)?;
        let inner = detached(py, || audio::CodedWriter::new(coding, rate))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Takes samples and gives the bytes that are ready.
    fn write<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (data, [_]) = take(py, "pcm", &pcm)?;
        let out = detached(py, || lock(&self.0).write(&data))?;
        Ok(PyBytes::new(py, &out))
    }
}

/// The law of a coding's name.
fn law(py: Python<'_>, name: &str) -> PyResult<Law> {
    match name {
        "mulaw" => Ok(Law::Mu),
        "alaw" => Ok(Law::A),
        other => {
            let error = Error::OptionValue {
                name: "law",
                got: format!("{other:?}"),
                allowed: "\"mulaw\" or \"alaw\"".into(),
            };
            Err(error::to_py(py, &error))
        }
    }
}

/// Samples of G.711 bytes.
#[pyfunction]
pub fn g711_decode<'py>(
    py: Python<'py>,
    data: &[u8],
    law: &str,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let law = self::law(py, law)?;
    let pcm = detached(py, || {
        let mut pcm = Vec::with_capacity(data.len());
        audio::g711::decode(law, data, &mut pcm);
        Ok(pcm)
    })?;
    Ok(PyArray1::from_vec(py, pcm))
}

/// G.711 bytes of samples.
#[pyfunction]
pub fn g711_encode<'py>(
    py: Python<'py>,
    pcm: PyReadonlyArrayDyn<'py, f32>,
    law: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let law = self::law(py, law)?;
    let (data, [_]) = take(py, "pcm", &pcm)?;
    let bytes = detached(py, || Ok(audio::g711::encode(law, &data)))?;
    Ok(PyBytes::new(py, &bytes))
}

/// An Ogg/Opus stream from samples.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct OggOpusWriter(Mutex<audio::OpusWriter>);

#[pymethods]
impl OggOpusWriter {
    #[new]
    #[pyo3(signature = (complexity=5))]
    fn new(py: Python<'_>, complexity: u8) -> PyResult<Self> {
        let inner = detached(py, || audio::OpusWriter::new(complexity))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Encodes samples and gives whole pages.
    fn write<'py>(
        &self,
        py: Python<'py>,
        pcm: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (data, [_]) = take(py, "pcm", &pcm)?;
        let out = detached(py, || lock(&self.0).write(&data))?;
        Ok(PyBytes::new(py, &out))
    }

    /// Samples that wait for the rest of their packet.
    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        detached(py, || Ok(lock(&self.0).pending()))
    }
}

/// Samples from an Ogg/Opus stream.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct OggOpusReader {
    reader: Mutex<audio::OpusReader>,
    bad_packets: AtomicU64,
}

#[pymethods]
impl OggOpusReader {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let inner = detached(py, audio::OpusReader::new)?;
        Ok(Self {
            reader: Mutex::new(inner),
            bad_packets: AtomicU64::new(0),
        })
    }

    /// Takes bytes, cut anywhere, and gives the samples that are ready.
    fn read<'py>(&self, py: Python<'py>, data: Vec<u8>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let pcm = detached(py, || {
            let mut pcm = Vec::new();
            let summary = lock(&self.reader).read(&data, &mut pcm);
            let bad = summary.bad_packets as u64;
            self.bad_packets.fetch_add(bad, Ordering::Relaxed);
            Ok(pcm)
        })?;
        Ok(PyArray1::from_vec(py, pcm))
    }

    /// Packets so far that were empty, too long or damaged.
    #[getter]
    fn bad_packets(&self) -> u64 {
        self.bad_packets.load(Ordering::Relaxed)
    }
}

//! `LmFiles`: an open checkpoint of a language model, or a random one.

use std::path::PathBuf;

use kaiwa_core::lm::convert::{self, Target};
use kaiwa_core::lm::synth::{RandomLm, Size};
use kaiwa_core::lm::{LmCheckpoint, LmTensors};
use pyo3::prelude::*;

use crate::gate::{detached, detached_long};

/// Tensors of a language model, wherever they come from.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct LmFiles {
    pub tensors: Box<dyn LmTensors>,
    layout: String,
    warnings: Vec<String>,
}

#[pymethods]
impl LmFiles {
    /// Opens weight files; checks names and shapes, reads no weights.
    #[staticmethod]
    #[pyo3(signature = (paths, config_json=None, lora=None, lora_config_json=None))]
    fn open(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        config_json: Option<String>,
        lora: Option<PathBuf>,
        lora_config_json: Option<String>,
    ) -> PyResult<Self> {
        detached(py, || {
            let mut files = LmCheckpoint::open(&paths, config_json.as_deref())?;
            if let Some(lora) = lora {
                files = files.with_lora(&lora, lora_config_json.as_deref())?;
            }
            Ok(Self {
                layout: files.layout().name(),
                warnings: files.warnings().to_vec(),
                tensors: Box::new(files),
            })
        })
    }

    /// A random model of a named size, for a codec with `card` entries a codebook.
    #[staticmethod]
    #[pyo3(signature = (size, seed, card=None))]
    fn random(py: Python<'_>, size: String, seed: u64, card: Option<usize>) -> PyResult<Self> {
        detached(py, || {
            let mut config = Size::parse(&size)?.config();
            config.card = card.unwrap_or(config.card);
            Ok(Self {
                tensors: Box::new(RandomLm::new(config, seed)),
                layout: "random".into(),
                warnings: Vec::new(),
            })
        })
    }

    #[getter]
    fn layout(&self) -> String {
        self.layout.clone()
    }
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
    #[getter]
    fn config_json(&self) -> String {
        convert::config_json(
            self.tensors.config(),
            Target::PyTorchBf16,
            "model.safetensors",
        )
    }
    #[getter]
    fn spoken(&self) -> usize {
        self.tensors.config().spoken
    }

    /// Numbers of values of all tensors.
    #[getter]
    fn parameters(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || {
            let mut sum = 0;
            for name in self.tensors.names() {
                let info = self.tensors.info(&name)?;
                sum += info.rows as u64 * info.cols as u64;
            }
            Ok(sum)
        })
    }

    /// Writes the model in another format; gives the file's length in bytes.
    #[pyo3(signature = (out, target, progress=None))]
    fn convert(
        &self,
        py: Python<'_>,
        out: PathBuf,
        target: String,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<u64> {
        detached_long(py, progress, |hook| {
            let target = Target::parse(&target)?;
            convert::convert(self.tensors.as_ref(), target, &out, &mut |done, total| {
                hook(done as usize, total as usize)
            })
        })
    }

    /// The `config.json` that belongs to a file of a format.
    fn config_for(&self, py: Python<'_>, target: String, file_name: String) -> PyResult<String> {
        detached(py, || {
            let target = Target::parse(&target)?;
            Ok(convert::config_json(
                self.tensors.config(),
                target,
                &file_name,
            ))
        })
    }
}

/// Names of the formats that can be written.
#[pyfunction]
pub fn lm_formats() -> Vec<&'static str> {
    Target::names()
}

/// The usual file name of a format.
#[pyfunction]
pub fn lm_file_name(py: Python<'_>, target: String) -> PyResult<&'static str> {
    detached(py, || Ok(Target::parse(&target)?.file_name()))
}

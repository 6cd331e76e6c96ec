//! Facts about files, the processor and this build.

use std::path::PathBuf;

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::cpu;
use kaiwa_core::device::cuda_path::CudaPath;
use kaiwa_core::device::{Device, capability};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gate::detached;

/// Names, types, shapes and metadata of a safetensors file, as JSON.
#[pyfunction]
pub fn safetensors_summary(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    detached(py, || Ok(SafeTensorsFile::open(&path)?.summary().to_json()))
}

/// `selected` and `available` kernels and the number of `threads`.
#[pyfunction]
pub fn cpu_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let facts = PyDict::new(py);
    let names: Vec<_> = cpu::Isa::available()
        .into_iter()
        .map(cpu::Isa::name)
        .collect();
    facts.set_item("selected", cpu::Isa::detect().name())?;
    facts.set_item("available", names)?;
    facts.set_item("threads", cpu::threads())?;
    Ok(facts)
}

/// Bytes of memory that can be used without swapping; `None` where the system does not say.
#[pyfunction]
pub fn available_memory(py: Python<'_>) -> PyResult<Option<u64>> {
    detached(py, || Ok(kaiwa_core::lm::available_memory()))
}

/// Bytes per second at which the kernels' threads read memory; see `cpu::read_bandwidth`. At most
/// 4 GiB and a minute.
#[pyfunction]
pub fn read_bandwidth(py: Python<'_>, bytes: usize, seconds: f64) -> PyResult<f64> {
    detached(py, || {
        Ok(cpu::read_bandwidth(bytes.min(4 << 30), seconds.min(60.0)))
    })
}

/// Name and compute capability (major, minor) of a device that can be opened: `None` unless it is a
/// CUDA card.
#[pyfunction]
pub fn describe_device(py: Python<'_>, device: String) -> PyResult<Option<(String, (u32, u32))>> {
    detached(py, || Ok(Device::parse(&device)?.open()?.describe()))
}

/// What computes the language model on a CUDA card: what `KAIWA_CUDA` says, or the default.
#[pyfunction]
pub fn cuda_path(py: Python<'_>) -> PyResult<&'static str> {
    detached(py, || Ok(CudaPath::chosen()?.name()))
}

/// `version`, compiled-in `features`, the `target` built for, and in `cuda` what there is code for,
/// such as `["sm_90", "compute_90"]`.
#[pyfunction]
pub fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let facts = PyDict::new(py);
    let features: Vec<_> = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect();
    facts.set_item("version", env!("CARGO_PKG_VERSION"))?;
    // Whoever builds may tell the revision of the source; a wheel from a plain tree has none.
    facts.set_item(
        "revision",
        option_env!("KAIWA_BUILD_REVISION").unwrap_or_default(),
    )?;
    facts.set_item("features", features)?;
    facts.set_item("cuda", capability::built())?;
    facts.set_item(
        "target",
        format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    )?;
    Ok(facts)
}

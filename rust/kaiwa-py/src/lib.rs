//! Python bindings.
use pyo3::prelude::*;

/// The compiled half of the `kaiwa` package.
#[pymodule]
fn _native(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}

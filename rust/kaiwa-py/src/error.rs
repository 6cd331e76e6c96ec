//! Core errors as the exceptions of `kaiwa.errors`.

use kaiwa_core::{Error, ErrorKind};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An exception class of `kaiwa.errors`, imported once.
macro_rules! class {
    ($py:expr, $name:literal) => {{
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        CLASS.import($py, "kaiwa.errors", $name)
    }};
}

/// The exception for a core error.
pub fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error.kind() {
        ErrorKind::Input => class!(py, "InputError"),
        ErrorKind::NotFound => class!(py, "CheckpointNotFoundError"),
        ErrorKind::Checkpoint => class!(py, "CheckpointError"),
        ErrorKind::Device => class!(py, "DeviceError"),
        ErrorKind::Closed => class!(py, "ClosedError"),
        ErrorKind::Interrupted => return PyKeyboardInterrupt::new_err(()),
    };
    match class {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(e) => e,
    }
}

/// An `InputError` with a message of the bindings' own.
pub fn input(py: Python<'_>, message: String) -> PyErr {
    match class!(py, "InputError") {
        Ok(class) => PyErr::from_type(class.clone(), message),
        Err(e) => e,
    }
}

/// The exception for a panic: a defect of Kaiwa, not of the caller.
pub fn panicked(py: Python<'_>, what: &str) -> PyErr {
    match class!(py, "KaiwaError") {
        Ok(class) => PyErr::from_type(
            class.clone(),
            format!("internal error: {what}; this is a defect of kaiwa, please report it"),
        ),
        Err(e) => e,
    }
}

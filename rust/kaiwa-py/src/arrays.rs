//! Arrays in and out: copied, with shapes checked only as far as copying needs.

use numpy::{Element, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArrayDyn};
use numpy::{PyUntypedArrayMethods, ndarray::Dimension};
use pyo3::prelude::*;

use crate::error;

/// The elements of an array of `N` axes in row-major order, whatever its strides, and its shape.
pub fn take<T: Element + Copy, const N: usize>(
    py: Python<'_>,
    what: &str,
    array: &PyReadonlyArrayDyn<'_, T>,
) -> PyResult<(Vec<T>, [usize; N])> {
    let shape: [usize; N] = array.shape().try_into().map_err(|_| {
        let (got, axes) = (array.shape(), array.as_array().raw_dim().ndim());
        error::input(
            py,
            format!("{what} has {axes} axes (shape {got:?}), but {N} were wanted"),
        )
    })?;
    // ndarray's `as_slice` is `None` unless the order is row-major; numpy's own would also give
    // column-major memory.
    let view = array.as_array();
    let data = match view.as_slice() {
        Some(slice) => slice.to_vec(),
        None => view.iter().copied().collect(),
    };
    Ok((data, shape))
}

/// An array of three axes.
pub fn give3<T: Element>(
    py: Python<'_>,
    data: Vec<T>,
    shape: [usize; 3],
) -> PyResult<Bound<'_, PyArray3<T>>> {
    PyArray1::from_vec(py, data).reshape(shape)
}

/// An array of two axes.
pub fn give2<T: Element>(
    py: Python<'_>,
    data: Vec<T>,
    shape: [usize; 2],
) -> PyResult<Bound<'_, PyArray2<T>>> {
    PyArray1::from_vec(py, data).reshape(shape)
}

//! Arrays in and out: copied, with shapes checked only as far as copying needs.

use numpy::PyUntypedArrayMethods;
use numpy::{Element, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::error;

/// Whether every element lies at an address that its type allows. Fields of packed records and
/// arrays over raw buffers may not; numpy reads them all the same, a slice must not.
fn is_aligned<T: Element>(array: &PyReadonlyArrayDyn<'_, T>) -> bool {
    let size = align_of::<T>();
    let strides = array.strides().iter().zip(array.shape());
    (array.data() as usize).is_multiple_of(size)
        && strides
            .filter(|(_, length)| **length > 1)
            .all(|(stride, _)| stride.unsigned_abs().is_multiple_of(size))
}

/// The elements of an array of `N` axes in row-major order, whatever its strides, and its shape.
pub fn take<T: Element + Copy, const N: usize>(
    py: Python<'_>,
    what: &str,
    array: &PyReadonlyArrayDyn<'_, T>,
) -> PyResult<(Vec<T>, [usize; N])> {
    if !is_aligned(array) {
        let copy = array.call_method1("copy", ("C",))?;
        return take(py, what, &copy.extract()?);
    }
    let shape: [usize; N] = array.shape().try_into().map_err(|_| {
        let (got, axes) = (array.shape(), array.ndim());
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

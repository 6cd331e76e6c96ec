//! GGML's blocks of quantised numbers, by way of the tensor library.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// At least the alignment of every block type.
const ALIGN: usize = 8;

/// Bytes of `count` numbers in blocks of `kind`.
pub(crate) fn block_bytes(kind: GgmlDType, count: usize) -> usize {
    count / kind.block_size() * kind.type_size()
}

/// A matrix over blocks, on `device`.
///
/// # Errors
/// [`Error::Backend`] if the blocks do not fill it, or the device has no room.
pub(crate) fn blocks(
    data: &[u8],
    kind: GgmlDType,
    (rows, cols): (usize, usize),
    device: &Device,
) -> Result<QTensor> {
    if data.len() != rows * block_bytes(kind, cols) {
        return Err(wrong_size("blocks do not fill their matrix"));
    }
    // The library reads blocks in place and wants them aligned, which bytes need not be.
    let aligned;
    let data = if data.as_ptr().align_offset(ALIGN) == 0 {
        data
    } else {
        let mut copy = vec![0; data.len() + ALIGN];
        let skip = copy.as_ptr().align_offset(ALIGN).min(ALIGN);
        copy[skip..skip + data.len()].copy_from_slice(data);
        aligned = (copy, skip);
        &aligned.0[aligned.1..aligned.1 + data.len()]
    };
    let storage = QStorage::from_data(Cow::Borrowed(data), device, kind)?;
    Ok(QTensor::new(storage, (rows, cols))?)
}

/// `values` in blocks of `kind`, into `out`.
///
/// # Errors
/// [`Error::Backend`] if they do not fill it.
pub(crate) fn quantise(values: &[f32], kind: GgmlDType, out: &mut [u8]) -> Result<()> {
    let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
    let made = QTensor::quantize(&values, kind)?;
    let data = made.data()?;
    if data.len() != out.len() {
        return Err(wrong_size("blocks do not fill their rows"));
    }
    out.copy_from_slice(&data);
    Ok(())
}

/// Dequantises blocks into `out`; NaN if they do not fill it.
pub(crate) fn dequantise(kind: GgmlDType, data: &[u8], out: &mut [f32]) {
    let values = || -> Result<Vec<f32>> {
        let tensor = blocks(data, kind, (1, out.len()), &Device::Cpu)?;
        let tensor: Tensor = tensor.dequantize(&Device::Cpu)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    };
    match values() {
        Ok(values) => out.copy_from_slice(&values),
        Err(_) => out.fill(f32::NAN),
    }
}

fn wrong_size(what: &str) -> Error {
    Error::Backend(candle_core::Error::Msg(what.into()))
}

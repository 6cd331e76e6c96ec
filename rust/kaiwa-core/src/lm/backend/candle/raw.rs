//! Rows as they lie in a file: how long they are, whether they are sane, what they stand for.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::internal_error;
use crate::checkpoint::{Encoding, RawRows};
use crate::error::Result;

/// The block type of an encoding that GGML defines and that is not plain floats.
pub(super) fn block_type(encoding: Encoding) -> Option<GgmlDType> {
    match encoding {
        Encoding::Q8_0 => Some(GgmlDType::Q8_0),
        Encoding::Q4_0 => Some(GgmlDType::Q4_0),
        Encoding::Q4_1 => Some(GgmlDType::Q4_1),
        Encoding::Ggml(GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) => None,
        Encoding::Ggml(kind) => Some(kind),
        _ => None,
    }
}

/// `GgmlDType` spells three plain types of its own: one word for each.
pub(super) fn canonical(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::Ggml(GgmlDType::F32) => Encoding::F32,
        Encoding::Ggml(GgmlDType::F16) => Encoding::F16,
        Encoding::Ggml(GgmlDType::BF16) => Encoding::Bf16,
        other => other,
    }
}

/// Bytes of `count` numbers in blocks of `kind`.
pub(super) fn block_bytes(kind: GgmlDType, count: usize) -> usize {
    count / kind.block_size() * kind.type_size()
}

/// Whether the numbers that could be NaN or infinite are not: floats and scales. Block types
/// whose scales lie elsewhere than in front are not known here, and count as unknown (`false`).
pub(super) fn known_finite(raw: &RawRows, encoding: Encoding) -> bool {
    let f32s = |bytes: &[u8]| {
        let words = bytes.as_chunks::<4>().0;
        words.iter().all(|w| f32::from_le_bytes(*w).is_finite())
    };
    let f16s = |bytes: &[u8]| halves(bytes).all(|h| f16::from_bits(h).is_finite());
    let bf16s = |bytes: &[u8]| halves(bytes).all(|h| bf16::from_bits(h).is_finite());
    // The f16 numbers in the first `head` bytes of every block.
    let heads = |bytes: &[u8], block: usize, head: usize| {
        bytes.chunks_exact(block).all(|b| f16s(&b[..head]))
    };
    // Gigabytes of these: on all cores.
    let data = |ok: &(dyn Fn(&[u8]) -> bool + Sync)| raw.data.par_chunks(PIECE).all(ok);
    match canonical(encoding) {
        Encoding::F32 => data(&f32s),
        Encoding::F16 => data(&f16s),
        Encoding::Bf16 => data(&bf16s),
        Encoding::Int8Rows => f32s(&raw.scales),
        Encoding::Affine { .. } => bf16s(&raw.scales) && bf16s(&raw.biases),
        Encoding::Q8_0 => data(&|bytes| heads(bytes, 34, 2)),
        Encoding::Q4_0 => data(&|bytes| heads(bytes, 18, 2)),
        Encoding::Q4_1 => data(&|bytes| heads(bytes, 20, 4)),
        Encoding::Ggml(_) => false,
    }
}

/// Whole numbers of every size above, and whole blocks of 34, 18 and 20 bytes.
const PIECE: usize = 3060 << 9;

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let pairs = bytes.as_chunks::<2>().0;
    pairs.iter().map(|p| u16::from_le_bytes(*p))
}

/// A matrix over GGML blocks, on `device`.
pub(super) fn blocks(
    data: &[u8],
    kind: GgmlDType,
    (rows, cols): (usize, usize),
    device: &Device,
) -> Result<QTensor> {
    if data.len() != rows * block_bytes(kind, cols) {
        return Err(internal_error("blocks do not fill their matrix"));
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

/// At least the alignment of every block type.
const ALIGN: usize = 8;

/// `values` in blocks of `kind`, into `out`.
pub(super) fn quantise(values: &[f32], kind: GgmlDType, out: &mut [u8]) -> Result<()> {
    let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
    let made = QTensor::quantize(&values, kind)?;
    let data = made.data()?;
    if data.len() != out.len() {
        return Err(internal_error("blocks do not fill their rows"));
    }
    out.copy_from_slice(&data);
    Ok(())
}

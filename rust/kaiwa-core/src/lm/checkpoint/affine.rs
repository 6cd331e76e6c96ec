//! MLX's quantised matrices: bits and group by shapes (docs/spec/checkpoints.md 5).

use super::files::Files;
use super::layout::Layout;
use super::{Place, hint};
use crate::checkpoint::Encoding;
use crate::error::{Error, Result};
use crate::lm::LmConfig;
use crate::lm::schema::Spec;

/// Bits and group of a file, from the text head: its inputs are the model's width.
pub(super) fn detect(files: &Files, config: &LmConfig) -> Result<Layout> {
    let inputs = config.dim;
    let columns = |name: &str| {
        let entry = files.entries.get(name)?;
        entry
            .shape
            .get(1)
            .copied()
            .filter(|_| entry.shape.len() == 2)
    };
    let (words, scales) = (columns("text_linear.weight"), columns("text_linear.scales"));
    let unclear = |got: String| Error::Config {
        field: "dim".into(),
        got,
        wanted:
            "the integers of an MLX file must be 4 or 8 bits with 32 to 128 inputs to a scale: \
                 pass the config.json that belongs to these weights"
                .into(),
    };
    let (Some(words), Some(scales)) = (words, scales) else {
        return Err(unclear("text_linear without integers and scales".into()));
    };
    let got = format!("{inputs}, with {words} words and {scales} scales a row of text_linear");
    if scales == 0 || !(words * 32).is_multiple_of(inputs) || !inputs.is_multiple_of(scales) {
        return Err(unclear(got));
    }
    let (bits, group) = (words * 32 / inputs, inputs / scales);
    match (bits, group) {
        (4 | 8, 32 | 64 | 128) => Ok(Layout::MlxQuantized {
            bits: bits as u8,
            group,
        }),
        _ => Err(unclear(got)),
    }
}

/// Checks integers, scales and biases of one tensor.
pub(super) fn locate(
    files: &Files,
    name: &str,
    spec: &Spec,
    bits: u8,
    group: usize,
) -> Result<Place> {
    let base = name.strip_suffix(".weight").unwrap_or(name);
    let (scales, biases) = (format!("{base}.scales"), format!("{base}.biases"));
    let wanted = [
        (name, "U32", spec.cols * usize::from(bits) / 32),
        (&scales, "BF16", spec.cols / group),
        (&biases, "BF16", spec.cols / group),
    ];
    for (part, dtype, columns) in wanted {
        let Some(entry) = files.entries.get(part) else {
            return Err(Error::TensorNames {
                path: files.path(0),
                missing: hint::listed(&[part.to_owned()]),
                unexpected: "none".into(),
                hint: "only MLX's affine quantisation (with scales and biases) is supported".into(),
            });
        };
        if entry.dtype != dtype {
            return Err(Error::TensorDtype {
                path: files.path(entry.file),
                name: part.to_owned(),
                dtype: entry.dtype.clone(),
                remedy: "MLX keeps integers as U32, scales and biases as BF16",
            });
        }
        if entry.shape != [spec.rows, columns] || !spec.cols.is_multiple_of(group) {
            return Err(Error::TensorShape {
                path: files.path(entry.file),
                name: part.to_owned(),
                found: entry.shape.clone(),
                expected: vec![spec.rows, columns],
            });
        }
    }
    Ok(Place {
        name: name.to_owned(),
        first: 0,
        rows: spec.rows,
        cols: spec.cols,
        encoding: Encoding::Affine { bits, group },
        scales: Some(scales),
        biases: Some(biases),
    })
}

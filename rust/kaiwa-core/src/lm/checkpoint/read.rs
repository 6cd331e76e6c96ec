//! Reading rows of a tensor.

use std::ops::Range;
use std::path::Path;

use super::{LmCheckpoint, Place};
use crate::checkpoint::encoding::{decode_row, row_bytes};
use crate::checkpoint::finite::{self, Floats, Part};
use crate::checkpoint::{Encoding, RawRows};
use crate::error::{Error, Result};
use crate::lm::{LmConfig, LmTensors, TensorInfo};

impl LmCheckpoint {
    fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).ok_or_else(|| Error::TensorNames {
            path: self.files.path(0),
            missing: format!("1 ({name})"),
            unexpected: "none".into(),
            hint: "use a name that the model has".into(),
        })
    }

    /// Rows as they lie in the file, before any change.
    fn rows(&self, place: &Place, rows: &Range<usize>, into: &mut RawRows) -> Result<()> {
        let count = rows.len();
        let first = (place.first + rows.start) as u64;
        let part = |name: &str, each: usize, out: &mut Vec<u8>| {
            self.files
                .read(name, first * each as u64, count * each, out)
        };
        let [data, scales, biases] = row_bytes(place.encoding, place.cols);
        part(&place.name, data, &mut into.data)?;
        into.scales.clear();
        into.biases.clear();
        if let Some(name) = &place.scales {
            part(name, scales, &mut into.scales)?;
        }
        if let Some(name) = &place.biases {
            part(name, biases, &mut into.biases)?;
        }
        check_scales(&self.files, place, rows.start, into)
    }
}

/// Scales must be numbers; those of 8-bit rows not negative. Plain floats are looked at when they are
/// read as values.
fn check_scales(
    files: &super::files::Files,
    place: &Place,
    first: usize,
    raw: &RawRows,
) -> Result<()> {
    if matches!(
        place.encoding.canonical(),
        Encoding::F32 | Encoding::F16 | Encoding::Bf16
    ) {
        return Ok(());
    }
    let bad = |part: Part, index: usize, value: f32| {
        let (name, before) = match part {
            Part::Data => (Some(&place.name), first * place.cols),
            Part::Scales => (place.scales.as_ref(), first * scales_per_row(place)),
            Part::Biases => (place.biases.as_ref(), first * scales_per_row(place)),
        };
        Error::TensorNotFinite {
            path: files.path(0),
            name: name.cloned().unwrap_or_default(),
            index: before + index,
            value,
        }
    };
    if let Floats::Bad { part, index, value } = finite::floats(raw, place.encoding) {
        return Err(bad(part, index, value));
    }
    if place.encoding == Encoding::Int8Rows {
        let scales = raw.scales.as_chunks::<4>().0.iter().enumerate();
        let mut scales = scales.map(|(row, bytes)| (row, f32::from_le_bytes(*bytes)));
        if let Some((row, scale)) = scales.find(|(_, scale)| *scale < 0.0) {
            return Err(bad(Part::Scales, row, scale));
        }
    }
    Ok(())
}

fn scales_per_row(place: &Place) -> usize {
    match place.encoding {
        Encoding::Affine { group, .. } => place.cols / group,
        _ => 1,
    }
}

/// Translation models take an early end of the text as padding (docs/spec/moshi.md 9.2): row 2 of
/// the text table is row 3.
fn substitute(config: &LmConfig, name: &str, row: usize) -> usize {
    match config.model_type == "hibiki" && name == "text_emb.weight" && row == 2 {
        true => 3,
        false => row,
    }
}

/// Values must be numbers.
fn finite(values: &[f32], path: &Path, name: &str) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::TensorNotFinite {
            path: path.to_owned(),
            name: name.to_owned(),
            index,
            value: values[index],
        }),
    }
}

impl LmTensors for LmCheckpoint {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let place = self.place(name)?;
        Ok(TensorInfo {
            rows: place.rows,
            cols: place.cols,
            encoding: place.encoding,
            merged: self.adapter.as_ref().is_some_and(|a| a.changes(name)),
        })
    }

    fn read_raw(&self, name: &str, rows: Range<usize>, into: &mut RawRows) -> Result<()> {
        let place = self.place(name)?;
        self.rows(place, &rows, into)?;
        for row in rows
            .clone()
            .filter(|r| substitute(&self.config, name, *r) != *r)
        {
            let other = substitute(&self.config, name, row);
            let mut one = RawRows::default();
            self.rows(place, &(other..other + 1), &mut one)?;
            let at = row - rows.start;
            for (all, one) in [
                (&mut into.data, &one.data),
                (&mut into.scales, &one.scales),
                (&mut into.biases, &one.biases),
            ] {
                all[at * one.len()..(at + 1) * one.len()].copy_from_slice(one);
            }
        }
        Ok(())
    }

    fn read_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let place = self.place(name)?;
        let (count, cols) = (rows.len(), place.cols);
        if out.len() != count * cols || rows.end > place.rows {
            return Err(Error::Shape {
                what: "out",
                got: format!("[{}] for rows {rows:?}", out.len()),
                wanted: format!("[{count}, {cols}] of {} rows", place.rows),
                remedy: "give room for the rows asked for",
            });
        }
        let mut raw = RawRows::default();
        self.read_raw(name, rows.clone(), &mut raw)?;
        for (row, out) in out.chunks_exact_mut(cols.max(1)).enumerate() {
            decode_row(place.encoding, cols, &raw, count, row, out);
        }
        finite(out, &self.files.path(0), &place.name)?;
        if let Some(adapter) = self.adapter.as_ref().filter(|a| a.changes(name)) {
            adapter.add(&self.files, name, rows, cols, out)?;
            finite(out, &adapter.path, name)?;
        }
        Ok(())
    }
}

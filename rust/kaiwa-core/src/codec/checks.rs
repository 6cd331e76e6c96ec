//! Checks of what callers pass: shapes, and the values of the rows that count.

use super::config::QuantizerConfig;
use crate::error::{Error, Result};

/// Samples per row of `pcm` `[rows, samples]`, after checking shape and values of the rows that
/// count: those whose flag in `active` is set, or all.
pub(super) fn audio(pcm: &[f32], rows: usize, active: Option<&[bool]>) -> Result<usize> {
    if rows == 0 || pcm.is_empty() {
        return Err(Error::Empty {
            what: "pcm",
            at_least: "one sample in at least one row",
        });
    }
    if !pcm.len().is_multiple_of(rows) {
        return Err(Error::Shape {
            what: "pcm",
            got: format!("{} samples for {rows} rows", pcm.len()),
            wanted: "[batch, 1, samples]".into(),
            remedy: "give every row the same length",
        });
    }
    let samples = pcm.len() / rows;
    for (row, values) in pcm.chunks_exact(samples).enumerate() {
        if active.is_some_and(|a| !a[row]) {
            continue;
        }
        crate::audio::samples::check("pcm", row, values)?;
    }
    Ok(samples)
}

/// Frames per row of `codes` `[rows, codebooks, frames]`, after checking shape and values of the
/// rows that count.
pub(super) fn codes(
    config: &QuantizerConfig,
    codes: &[i32],
    rows: usize,
    codebooks: usize,
    active: Option<&[bool]>,
) -> Result<usize> {
    let max = config.n_q;
    if codebooks == 0 || codebooks > max {
        return Err(Error::CodebookCount {
            got: codebooks,
            max,
        });
    }
    if rows == 0 || codes.is_empty() {
        return Err(Error::Empty {
            what: "codes",
            at_least: "one frame in at least one row",
        });
    }
    if !codes.len().is_multiple_of(rows * codebooks) {
        return Err(Error::Shape {
            what: "codes",
            got: format!(
                "{} codes for {rows} rows of {codebooks} codebooks",
                codes.len()
            ),
            wanted: "[batch, codebooks, frames]".into(),
            remedy: "give every codebook the same number of frames",
        });
    }
    let frames = codes.len() / (rows * codebooks);
    let cardinality = config.bins;
    for (i, &value) in codes.iter().enumerate() {
        let row = i / (codebooks * frames);
        let counts = active.is_none_or(|a| a[row]);
        if counts && !usize::try_from(value).is_ok_and(|v| v < cardinality) {
            let (codebook, frame) = (i / frames % codebooks, i % frames);
            return Err(Error::CodeRange {
                row,
                codebook,
                frame,
                value: value.into(),
                cardinality,
            });
        }
    }
    Ok(frames)
}

/// That `slots` are slots of a stream, each named once, in order.
pub(super) fn slots(chosen: &[usize], slots: usize) -> Result<()> {
    if let Some(&got) = chosen.iter().find(|&&slot| slot >= slots) {
        return Err(Error::SlotIndex { got, slots });
    }
    if chosen.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err(Error::OptionValue {
        name: "slots",
        got: format!("{chosen:?}"),
        allowed: "slots in ascending order, each at most once".into(),
    })
}

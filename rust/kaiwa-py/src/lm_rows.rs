//! Between numpy's arrays, `[slots, ...]` of wide integers with a mask, and the core's rows of the
//! active slots.

use kaiwa_core::lm::LmConfig;
use kaiwa_core::{Error, Result};

/// What stands for a slot that gave nothing.
const NOTHING: i32 = -2;

/// The active ones of `slots` slots; all if there is no mask.
pub fn active(mask: Option<&[bool]>, slots: usize) -> Result<Vec<usize>> {
    match mask {
        None => Ok((0..slots).collect()),
        Some(mask) if mask.len() == slots => Ok((0..slots).filter(|s| mask[*s]).collect()),
        Some(mask) => Err(Error::Shape {
            what: "active",
            got: format!("[{}]", mask.len()),
            wanted: format!("[{slots}]"),
            remedy: "give one flag per slot",
        }),
    }
}

/// Codes `[slots, codebooks]` of the active slots.
pub fn user_codes(
    codes: &[i64],
    [slots, codebooks]: [usize; 2],
    active: &[usize],
    (count, config): (usize, &LmConfig),
) -> Result<Vec<i32>> {
    if slots != count {
        return Err(Error::Shape {
            what: "user_codes",
            got: format!("[{slots}, {codebooks}]"),
            wanted: format!("[{count}, {}]", config.user_codebooks()),
            remedy: "give a row per slot with at least the codebooks that the model listens to",
        });
    }
    let mut rows = Vec::with_capacity(active.len() * codebooks);
    for &slot in active {
        let codes = codes.iter().skip(slot * codebooks).take(codebooks);
        for (codebook, &value) in codes.enumerate() {
            match i32::try_from(value) {
                Ok(value) => rows.push(value),
                // Codebooks that are cut off are not looked at.
                Err(_) if codebook >= config.user_codebooks() => rows.push(0),
                Err(_) => {
                    return Err(Error::UserCode {
                        slot,
                        codebook,
                        value,
                        card: config.card,
                    });
                }
            }
        }
    }
    Ok(rows)
}

/// Frames of audio `[slots, size]` of the active slots.
pub fn frames(
    pcm: &[f32],
    [slots, size]: [usize; 2],
    active: &[usize],
    count: usize,
) -> Result<Vec<f32>> {
    if slots != count {
        return Err(Error::Shape {
            what: "pcm",
            got: format!("[{slots}, {size}]"),
            wanted: format!("[{count}, {size}]"),
            remedy: "give a frame per slot, and mask idle ones with active=",
        });
    }
    let frame = |slot: &usize| pcm[slot * size..][..size].iter().copied();
    Ok(active.iter().flat_map(frame).collect())
}

/// Forced tokens `[slots, width]` of the active slots; none if there are none.
pub fn forced(
    what: &'static str,
    tokens: Option<&[i64]>,
    active: &[usize],
    (count, width): (usize, usize),
    size: usize,
) -> Result<Vec<i32>> {
    let Some(tokens) = tokens else {
        return Ok(Vec::new());
    };
    if tokens.len() != count * width {
        return Err(Error::Shape {
            what,
            got: format!("{} values", tokens.len()),
            wanted: format!("{} values for {count} slots", count * width),
            remedy: "give a value for every slot, negative where the model shall choose",
        });
    }
    let mut rows = Vec::with_capacity(active.len() * width);
    for &slot in active {
        for &value in &tokens[slot * width..][..width] {
            let value = i32::try_from(value.max(-1)).map_err(|_| Error::TokenRange {
                what,
                slot,
                value,
                size,
            })?;
            rows.push(value);
        }
    }
    Ok(rows)
}

/// Rows of the active slots as rows of all `count` slots; `fill` in the others.
pub fn spread<T: Copy>(
    rows: &[T],
    active: &[usize],
    count: usize,
    width: usize,
    fill: T,
) -> Vec<T> {
    if active.len() == count {
        return rows.to_vec();
    }
    let mut all = vec![fill; count * width];
    for (slot, row) in active.iter().zip(rows.chunks_exact(width.max(1))) {
        all[slot * width..][..width].copy_from_slice(row);
    }
    all
}

/// [`spread`] of tokens.
pub fn spread_tokens(rows: &[i32], active: &[usize], count: usize, width: usize) -> Vec<i32> {
    spread(rows, active, count, width, NOTHING)
}

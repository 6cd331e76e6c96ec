//! What counts as a sample.

use crate::error::{Error, Result};

/// Largest value that is taken. Full scale is 1; values beyond this would overflow in sums and
/// spoil a filter's or a conversation's state for good.
pub const LARGEST: f32 = 1e6;

/// Refuses what is no audio: NaN, infinities, and values beyond [`LARGEST`].
///
/// # Errors
/// [`Error::Sample`], with the place of the first such value.
pub fn check(what: &'static str, row: usize, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| v.is_nan() || v.abs() > LARGEST) {
        None => Ok(()),
        Some(index) => Err(Error::Sample {
            what,
            row,
            index,
            value: values[index],
        }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_no_sample_is_named() {
        assert!(check("pcm", 0, &[0.0, -1.0, LARGEST, -LARGEST, 1e-40]).is_ok());
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -1.1e6] {
            let error = check("pcm", 3, &[0.5, value, f32::NAN]).unwrap_err();
            let place = matches!(
                error,
                Error::Sample {
                    row: 3,
                    index: 1,
                    ..
                }
            );
            assert!(place, "{error}");
        }
    }
}

//! Whether a step waits a moment for callers whose frames are about to come. Plain data: every
//! function is given the time.
//!
//! A step costs something however few rows it has: the weights are read once. Calls that began
//! together send their frames within a few milliseconds of each other; stepping the first of them
//! alone would make all others wait for two steps instead of one. So a frame may be held for half of
//! what a further step costs, if others are seen coming. A caller that is alone never waits.

use super::pace::FRAME;

/// Longest wait, in seconds.
const MOST: f64 = 0.005;
/// Steps that cost less than this are not worth waiting for.
const LEAST: f64 = 0.001;

/// What is known of a caller's next frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// It is here since this time.
    Here(f64),
    /// Some of it is here and being decoded.
    Decoding,
    /// The last one came at this time.
    After(f64),
}

/// How long a frame may be held, in seconds, where a further step costs `fixed`.
pub fn patience(fixed: f64) -> f64 {
    if fixed < LEAST {
        return 0.0;
    }
    (fixed / 2.0).min(MOST)
}

/// Until when a step should wait; `None`: step now what is here.
pub fn until(now: f64, patience: f64, callers: impl Iterator<Item = Next>) -> Option<f64> {
    let (mut first, mut coming) = (f64::INFINITY, false);
    for caller in callers {
        match caller {
            Next::Here(since) => first = first.min(since),
            Next::Decoding => coming = true,
            Next::After(last) => coming |= (last + FRAME - now).abs() < patience,
        }
    }
    let deadline = first + patience;
    (coming && first.is_finite() && now < deadline).then_some(deadline)
}

#[cfg(test)]
mod tests {
    use super::Next::{After, Decoding, Here};
    use super::*;

    fn at(now: f64, callers: &[Next]) -> Option<f64> {
        until(now, 0.004, callers.iter().copied())
    }

    #[test]
    fn only_for_callers_that_are_due_and_only_for_a_moment() {
        assert_eq!(at(1.0, &[Here(1.0)]), None);
        assert_eq!(at(1.0, &[Here(1.0), Decoding]), Some(1.004));
        assert_eq!(at(1.002, &[Here(1.002), Here(1.0), Decoding]), Some(1.004));
        assert_eq!(at(1.004, &[Here(1.0), Decoding]), None);
        // Due in 3 ms, or 3 ms late; in 5 ms is too far off, 5 ms late too uncertain.
        assert_eq!(at(1.0, &[Here(1.0), After(0.923)]), Some(1.004));
        assert_eq!(at(1.0, &[Here(1.0), After(0.917)]), Some(1.004));
        assert_eq!(at(1.0, &[Here(1.0), After(0.925)]), None);
        assert_eq!(at(1.0, &[Here(1.0), After(0.915)]), None);
        // Nothing to step.
        assert_eq!(at(1.0, &[Decoding, After(0.92)]), None);
    }

    #[test]
    fn patience_is_half_of_what_is_saved_and_bounded() {
        assert_eq!(patience(0.0005), 0.0);
        assert_eq!(patience(0.004), 0.002);
        assert_eq!(patience(0.1), 0.005);
    }
}

//! The batch delay: whether a step waits a moment for callers whose frames are about to come. Plain
//! data: every function is given the time.
//!
//! A step costs something however few rows it has: the weights are read once. Calls that began
//! together send their frames within a few milliseconds of each other; stepping the first of them
//! alone makes all others wait for two steps instead of one, and close to what the machine can do
//! there is no time for two. So a frame may wait while others are seen coming: the longer, the
//! fuller the machine, but never longer than what a further step costs.

use super::pace::FRAME;

/// Longest wait, in seconds.
const MOST: f64 = 0.008;
/// A shorter wait is not worth it.
const LEAST: f64 = 0.0003;

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

/// The longest delay of a frame, in seconds, where a further step costs `fixed` and a step of all
/// callers `all`.
pub fn longest(fixed: f64, all: f64) -> f64 {
    // 1: two steps a frame are all that there is time for.
    let load = ((all + fixed) / FRAME).min(1.0);
    match fixed * load * load {
        short if short < LEAST => 0.0,
        delay => delay.min(MOST),
    }
}

/// Until when a step should wait, `longest` seconds at most; `None`: step now what is here. The
/// engine is `free` since then.
pub fn until(
    now: f64,
    free: f64,
    longest: f64,
    callers: impl Iterator<Item = Next>,
) -> Option<f64> {
    let (mut first, mut coming) = (f64::INFINITY, false);
    for caller in callers {
        match caller {
            Next::Here(since) => first = first.min(since),
            Next::Decoding => coming = true,
            Next::After(last) => coming |= (last + FRAME - now).abs() < longest,
        }
    }
    let deadline = first.max(free) + longest;
    (coming && first.is_finite() && now < deadline).then_some(deadline)
}

#[cfg(test)]
mod tests {
    use super::Next::{After, Decoding, Here};
    use super::*;

    fn at(now: f64, callers: &[Next]) -> Option<f64> {
        until(now, 0.9, 0.004, callers.iter().copied())
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
        // A step that has just ended: what waited for it waits for the others, too.
        let both = [Here(0.95), After(0.922)];
        assert_eq!(until(1.0, 0.999, 0.004, both.into_iter()), Some(1.003));
        // Nothing to step.
        assert_eq!(at(1.0, &[Decoding, After(0.92)]), None);
    }

    #[test]
    fn a_full_machine_waits_for_as_long_as_a_step_costs_an_empty_one_hardly() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        // Twelve rows in 68 ms and 8 ms a step, and two rows in 16.
        assert!(close(longest(0.008, 0.068), 0.008 * 0.95 * 0.95));
        assert!(close(longest(0.008, 0.016), 0.008 * 0.3 * 0.3));
        assert!(close(longest(0.04, 0.045), 0.008));
        assert_eq!(longest(0.001, 0.01), 0.0);
    }
}

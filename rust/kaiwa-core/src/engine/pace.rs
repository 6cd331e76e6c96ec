//! When a session's frame may be stepped, and which frames are dropped. Plain data: every function
//! is given the time (docs/spec/protocols.md 1.9, 5.6).

/// Seconds of a frame.
pub const FRAME: f64 = 0.08;
/// Frames of a caller that may wait.
pub const BACKLOG: usize = 4;
/// Frames that may be stepped at once: the present one and two of catching up.
const BURST: f64 = 3.0;
/// A backlog that stands for so long, in seconds, is cut.
const STANDING: f64 = 2.0;
/// Frames above real time until a caller is too fast: 10 s ...
const EXCESS: f64 = 10.0 / FRAME;
/// ... within 60 s: what drains away each second.
const DRAIN: f64 = 1.0 / FRAME + EXCESS / 60.0;
/// Silence of a caller, in seconds, until the server's clock takes over.
const SERVER_CLOCK: f64 = 0.2;

/// How a session's input is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// A call: one frame each 80 ms; what is too much is dropped.
    RealTime,
    /// A file: as fast as it can be answered; nothing is dropped.
    #[default]
    None,
}

/// What becomes of a frame that has just come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Frames to drop, the oldest first.
    pub drop: usize,
    /// The caller has been too fast for too long.
    pub too_fast: bool,
}

/// The pace of one session.
#[derive(Debug, Clone)]
pub struct Pacer {
    pace: Pace,
    /// Frames that may be stepped now, at time `refilled`.
    allowance: f64,
    refilled: f64,
    /// Frames that came above real time, at time `drained`.
    level: f64,
    drained: f64,
    /// Shortest delay of a frame since `window`, in seconds.
    shortest: f64,
    window: f64,
    /// Frames still to be dropped, so that a standing delay goes.
    owed: usize,
    /// When the last frame came, or silence took its place.
    last_input: f64,
}

impl Pacer {
    /// A session that begins at `now`.
    pub fn new(pace: Pace, now: f64) -> Self {
        Self {
            pace,
            allowance: BURST,
            refilled: now,
            level: 0.0,
            drained: now,
            shortest: f64::INFINITY,
            window: now,
            owed: 0,
            last_input: now,
        }
    }

    /// A frame came; `waiting` frames are there with it.
    pub fn arrived(&mut self, now: f64, waiting: usize) -> Arrival {
        self.last_input = now;
        if self.pace == Pace::None {
            return Arrival {
                drop: 0,
                too_fast: false,
            };
        }
        self.level = (self.level - (now - self.drained) * DRAIN).max(0.0) + 1.0;
        self.drained = now;
        let drop = waiting.saturating_sub(BACKLOG).max(self.owed.min(waiting));
        self.owed = self.owed.saturating_sub(drop);
        Arrival {
            drop,
            too_fast: self.level > EXCESS + BURST,
        }
    }

    /// Whether a frame may be stepped.
    pub fn may_step(&mut self, now: f64) -> bool {
        if self.pace == Pace::None {
            return true;
        }
        self.allowance = (self.allowance + (now - self.refilled) / FRAME).min(BURST);
        self.refilled = now;
        // A clock that is read a little early must not cost a frame.
        self.allowance > 1.0 - 1e-6
    }

    /// When [`Self::may_step`] will say yes, if it just said no.
    pub fn next_step(&self) -> f64 {
        self.refilled + (1.0 - self.allowance).max(0.0) * FRAME
    }

    /// A frame is stepped that stood for `delay` seconds; time in which the engine was busy is not
    /// of its caller's making, and dropping frames would not shorten it.
    pub fn stepped(&mut self, now: f64, delay: f64) {
        if self.pace == Pace::None {
            return;
        }
        self.allowance -= 1.0;
        self.shortest = self.shortest.min(delay);
        if now - self.window >= STANDING {
            self.owed = ((self.shortest + FRAME / 2.0) / FRAME) as usize;
            self.shortest = f64::INFINITY;
            self.window = now;
        }
    }

    /// The engine did not step for a while: gives how many of `waiting` frames to drop, so that
    /// late answers do not come in a burst.
    pub fn stalled(&self, waiting: usize) -> usize {
        match self.pace {
            Pace::RealTime => waiting.saturating_sub(1),
            Pace::None => 0,
        }
    }

    /// When the last frame came, or silence took its place.
    pub fn last_input(&self) -> f64 {
        self.last_input
    }

    /// Whether silence should take the place of a frame, where the server's clock counts.
    pub fn silence_due(&self, now: f64) -> bool {
        now >= self.next_silence()
    }

    /// When silence is due.
    pub fn next_silence(&self) -> f64 {
        self.last_input + FRAME + SERVER_CLOCK
    }

    /// Silence took the place of a frame: the next is due 80 ms later.
    pub fn silence(&mut self, now: f64) {
        self.last_input = (self.last_input + FRAME).max(now - SERVER_CLOCK - FRAME);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A call in virtual time: frames come at `arrivals`, steps are tried each millisecond.
    fn call(arrivals: &[f64], until: f64) -> (Vec<f64>, usize, Pacer) {
        let mut pacer = Pacer::new(Pace::RealTime, 0.0);
        let (mut steps, mut dropped, mut next) = (Vec::new(), 0, 0);
        let mut queue = std::collections::VecDeque::new();
        for ms in 0..(until * 1000.0) as usize {
            let now = ms as f64 / 1000.0;
            while next < arrivals.len() && arrivals[next] <= now {
                queue.push_back(now);
                let cut = pacer.arrived(now, queue.len()).drop;
                queue.drain(..cut);
                (dropped, next) = (dropped + cut, next + 1);
            }
            while !queue.is_empty() && pacer.may_step(now) {
                steps.push(now);
                let arrived = queue.pop_front().unwrap();
                pacer.stepped(now, now - arrived);
            }
        }
        (steps, dropped, pacer)
    }

    #[test]
    fn a_steady_caller_is_stepped_at_once() {
        let arrivals: Vec<f64> = (1..1000).map(|n| n as f64 * 0.08).collect();
        let (steps, dropped, _) = call(&arrivals, 81.0);
        assert_eq!((steps.len(), dropped), (arrivals.len(), 0));
        for (step, arrival) in steps.iter().zip(&arrivals) {
            assert!(step - arrival < 0.0011, "{step} {arrival}");
        }
    }

    #[test]
    fn a_late_burst_is_caught_up_by_three_frames_and_delay_does_not_stay() {
        // Frames 50 to 56 come together.
        let arrivals: Vec<f64> = (1..400usize)
            .map(|n| (if (50..57).contains(&n) { 56 } else { n }) as f64 * 0.08)
            .collect();
        let (steps, dropped, _) = call(&arrivals, 33.0);
        let at = 56.0 * 0.08;
        let burst = steps.iter().filter(|t| (**t - at).abs() < 0.01).count();
        assert_eq!(burst, 3);
        // Four of seven could wait, three were stepped; the last one's delay went later.
        assert!((4..=5).contains(&dropped), "{dropped}");
        let late = steps.last().unwrap() - arrivals.last().unwrap();
        assert!(late < 0.0011, "{late}");
    }

    #[test]
    fn steps_never_run_ahead_of_real_time() {
        let arrivals: Vec<f64> = (1..2000).map(|n| n as f64 * 0.04).collect();
        let (steps, dropped, _) = call(&arrivals, 80.0);
        assert!(steps.len() <= 1000 + 3, "{}", steps.len());
        assert!(dropped >= 990);
    }

    #[test]
    fn twice_real_time_is_too_fast_after_some_ten_seconds_but_a_drifting_clock_never() {
        let too_fast = |interval: f64, seconds: f64| {
            let mut pacer = Pacer::new(Pace::RealTime, 0.0);
            let count = (seconds / interval) as usize;
            (1..count).find(|n| pacer.arrived(*n as f64 * interval, 1).too_fast)
        };
        let at = too_fast(0.04, 60.0).unwrap() as f64 * 0.04;
        assert!((9.0..14.0).contains(&at), "{at}");
        assert_eq!(too_fast(0.0799, 100_000.0), None);
        let mut pacer = Pacer::new(Pace::None, 0.0);
        assert!((0..1000).all(|_| !pacer.arrived(0.0, 1).too_fast));
    }

    #[test]
    fn silence_takes_over_after_a_fifth_of_a_second_and_keeps_time() {
        let mut pacer = Pacer::new(Pace::RealTime, 0.0);
        pacer.arrived(1.0, 1);
        let mut times = Vec::new();
        for ms in 1000..2000 {
            let now = ms as f64 / 1000.0;
            if pacer.silence_due(now) {
                pacer.silence(now);
                times.push(now);
            }
        }
        assert!((times[0] - 1.28).abs() < 0.002, "{times:?}");
        assert!(
            times
                .windows(2)
                .all(|w| (w[1] - w[0] - 0.08).abs() < 0.0021)
        );
    }

    #[test]
    fn after_a_stall_one_frame_is_left() {
        let pacer = Pacer::new(Pace::RealTime, 0.0);
        assert_eq!(
            (pacer.stalled(4), pacer.stalled(1), pacer.stalled(0)),
            (3, 0, 0)
        );
        assert_eq!(Pacer::new(Pace::None, 0.0).stalled(9), 0);
    }
}

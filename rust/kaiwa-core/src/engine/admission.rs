//! Who gets a slot: free slots, predicted step time, and a short queue. Plain data: every function
//! is given the time (docs/spec/protocols.md 5.5).

use std::collections::VecDeque;

use super::reason::EndReason;
use super::step_times::StepTimes;

/// Limits of admission.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Callers that may wait.
    pub queue: usize,
    /// Longest predicted step, in seconds, with one session more; infinite for no limit.
    pub step_budget: f64,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No slot is free and the queue is full, or the caller did not want to wait.
    Full,
    /// A slot is free, but steps would take too long.
    Overloaded,
    /// The engine takes nobody new.
    Draining,
}

impl Refusal {
    /// The reason that the caller is given.
    pub fn reason(self) -> EndReason {
        match self {
            Self::Full => EndReason::Full,
            Self::Overloaded => EndReason::Overloaded,
            Self::Draining => EndReason::Draining,
        }
    }
}

/// What becomes of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It has this slot.
    Admit(usize),
    /// It waits; 1 is next.
    Wait(usize),
    /// It is sent away.
    Refuse(Refusal),
}

/// A caller that waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    caller: u64,
    until: f64,
}

/// Slots and queue.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// Who has each slot.
    slots: Vec<Option<u64>>,
    queue: VecDeque<Waiting>,
    draining: bool,
}

impl Admission {
    /// `slots` free slots.
    pub fn new(slots: usize, limits: Limits) -> Self {
        Self {
            limits,
            slots: vec![None; slots],
            queue: VecDeque::new(),
            draining: false,
        }
    }

    /// Slots taken.
    pub fn used(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Callers waiting.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether one caller more would be let in at once; the reason if not.
    pub fn room(&self, times: &StepTimes) -> Result<(), Refusal> {
        let used = self.used();
        if self.draining {
            Err(Refusal::Draining)
        } else if used == self.slots.len() {
            Err(Refusal::Full)
        } else if used > 0 && times.predict(used + 1).unwrap_or(0.0) > self.limits.step_budget {
            // Alone a caller is let in whatever a step takes: better a slow answer than none.
            Err(Refusal::Overloaded)
        } else {
            Ok(())
        }
    }

    /// A caller that is ready to wait until `until`.
    pub fn request(&mut self, caller: u64, now: f64, until: f64, times: &StepTimes) -> Decision {
        // Nobody overtakes those who wait.
        let room = self.room(times);
        match room {
            Ok(()) if self.queue.is_empty() => self.admit(caller),
            Err(Refusal::Draining) => Decision::Refuse(Refusal::Draining),
            _ if self.queue.len() < self.limits.queue && until > now => {
                self.queue.push_back(Waiting { caller, until });
                Decision::Wait(self.queue.len())
            }
            Err(reason) => Decision::Refuse(reason),
            Ok(()) => Decision::Refuse(Refusal::Full),
        }
    }

    fn admit(&mut self, caller: u64) -> Decision {
        match self.slots.iter().position(Option::is_none) {
            Some(slot) => {
                self.slots[slot] = Some(caller);
                Decision::Admit(slot)
            }
            None => Decision::Refuse(Refusal::Full),
        }
    }

    /// What has changed for those who wait, by caller.
    pub fn poll(&mut self, now: f64, times: &StepTimes) -> Vec<(u64, Decision)> {
        let mut news = Vec::new();
        let before = self.queue.len();
        let reason = match self.room(times) {
            Err(reason) => reason,
            Ok(()) => Refusal::Full,
        };
        self.queue.retain(|w| {
            let stays = w.until > now && !self.draining;
            if !stays {
                news.push((w.caller, Decision::Refuse(reason)));
            }
            stays
        });
        while !self.queue.is_empty() && self.room(times).is_ok() {
            if let Some(next) = self.queue.pop_front() {
                news.push((next.caller, self.admit(next.caller)));
            }
        }
        if self.queue.len() != before {
            let places = self.queue.iter().zip(1..);
            news.extend(places.map(|(w, place)| (w.caller, Decision::Wait(place))));
        }
        news
    }

    /// A caller that waited has gone.
    pub fn cancel(&mut self, caller: u64) -> bool {
        let before = self.queue.len();
        self.queue.retain(|w| w.caller != caller);
        self.queue.len() != before
    }

    /// A slot is free again.
    pub fn release(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = None;
        }
    }

    /// Takes nobody new from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// When the next of those who wait gives up.
    pub fn next_deadline(&self) -> Option<f64> {
        self.queue.iter().map(|w| w.until).min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Admit, Refuse, Wait};
    use super::*;

    const LIMITS: Limits = Limits {
        queue: 2,
        step_budget: 0.06,
    };

    fn fast() -> StepTimes {
        let mut times = StepTimes::new(8);
        times.record(0.0, 1, 0.001);
        times
    }

    #[test]
    fn slots_then_queue_then_refusal() {
        let (mut a, t) = (Admission::new(2, LIMITS), fast());
        let got: Vec<Decision> = (0..5).map(|c| a.request(c, 0.0, 30.0, &t)).collect();
        let full = Refuse(Refusal::Full);
        assert_eq!(got, [Admit(0), Admit(1), Wait(1), Wait(2), full]);
        assert!(a.poll(1.0, &t).is_empty());
        a.release(0);
        assert_eq!(a.poll(2.0, &t), [(2, Admit(0)), (3, Wait(1))]);
        // Nobody overtakes: caller 3 is next.
        a.release(1);
        assert_eq!(a.request(9, 2.5, 30.0, &t), Wait(2));
        assert_eq!(a.poll(3.0, &t), [(3, Admit(1)), (9, Wait(1))]);
    }

    #[test]
    fn patience_ends_and_callers_leave() {
        let (mut a, t) = (Admission::new(1, LIMITS), fast());
        a.request(0, 0.0, 0.0, &t);
        assert_eq!(a.request(1, 0.0, 5.0, &t), Wait(1));
        assert_eq!(a.request(2, 0.0, 9.0, &t), Wait(2));
        assert_eq!(a.next_deadline(), Some(5.0));
        assert_eq!(a.poll(5.0, &t), [(1, Refuse(Refusal::Full)), (2, Wait(1))]);
        assert!(a.cancel(2) && !a.cancel(2));
        // Somebody who does not want to wait.
        assert_eq!(a.request(3, 6.0, 6.0, &t), Refuse(Refusal::Full));
    }

    #[test]
    fn a_step_that_would_take_too_long_refuses_but_never_the_first() {
        let (mut a, mut t) = (Admission::new(4, LIMITS), StepTimes::new(4));
        t.record(0.0, 1, 0.030);
        t.record(0.0, 2, 0.050);
        assert_eq!(a.request(0, 0.0, 0.0, &t), Admit(0));
        assert_eq!(a.request(1, 0.0, 0.0, &t), Admit(1));
        assert_eq!(a.room(&t), Err(Refusal::Overloaded));
        assert_eq!(a.request(2, 0.0, 0.0, &t), Refuse(Refusal::Overloaded));
        let mut slow = StepTimes::new(4);
        slow.record(0.0, 1, 0.5);
        assert_eq!(Admission::new(4, LIMITS).room(&slow), Ok(()));
    }

    #[test]
    fn draining_sends_everyone_away_who_has_no_slot() {
        let (mut a, t) = (Admission::new(1, LIMITS), fast());
        a.request(0, 0.0, 0.0, &t);
        a.request(1, 0.0, 30.0, &t);
        a.drain();
        assert_eq!(a.poll(0.1, &t), [(1, Refuse(Refusal::Draining))]);
        assert_eq!(a.request(2, 0.2, 30.0, &t), Refuse(Refusal::Draining));
        a.release(0);
        assert_eq!(a.room(&t), Err(Refusal::Draining));
    }
}

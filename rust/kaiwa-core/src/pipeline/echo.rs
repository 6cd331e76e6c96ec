//! A pipeline without a model.

use super::{FrameIn, FrameOut, Pipeline, Start};
use crate::error::{Error, Result};

/// Gives every frame back. Stands for a model where only what is around it shall be measured or
/// tested: it sleeps as long as a step would take and computes nothing.
pub struct Echo {
    slots: usize,
    /// Seconds of a step with no rows, and of each row.
    seconds: (f64, f64),
    /// Steps until its device is lost, if it ever is.
    lost_after: Option<u64>,
}

impl Echo {
    /// `slots` conversations; a step of n rows takes `base + n * per_row` seconds.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for no slots, or times outside 0 to 10 seconds.
    pub fn new(slots: usize, base: f64, per_row: f64) -> Result<Self> {
        let fine = |s: f64| (0.0..10.0).contains(&s);
        if slots == 0 || !fine(base) || !fine(per_row) {
            return Err(Error::OptionValue {
                name: "echo",
                got: format!("{slots} slots, {base} + n * {per_row} seconds"),
                allowed: "at least one slot and times from 0 to 10 seconds".into(),
            });
        }
        Ok(Self {
            slots,
            seconds: (base, per_row),
            lost_after: None,
        })
    }

    /// The same, and after so many steps every further one fails as on a card that is lost: for
    /// tests of what becomes of the calls and of the server.
    pub fn losing_device_after(self, steps: Option<u64>) -> Self {
        Self {
            lost_after: steps,
            ..self
        }
    }
}

impl Pipeline for Echo {
    fn slots(&self) -> usize {
        self.slots
    }

    fn begin(&mut self, _slot: usize, _start: &Start) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        match &mut self.lost_after {
            Some(0) => {
                return Err(Error::DeviceLost {
                    device: "echo".into(),
                    reason: "it was to fail after a number of steps".into(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let seconds = self.seconds.0 + self.seconds.1 * rows.len() as f64;
        if seconds > 0.0 {
            std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
        }
        let answer = |(_, frame): &(usize, FrameIn<'_>)| match frame {
            FrameIn::Audio(pcm) => FrameOut {
                audio: Some(pcm.to_vec()),
                ..FrameOut::default()
            },
            FrameIn::Text(tokens) => FrameOut {
                text: tokens.first().copied(),
                ..FrameOut::default()
            },
        };
        Ok(rows.iter().map(answer).collect())
    }

    fn renew(&mut self) -> Result<()> {
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        ["mimi_encode", "lm", "mimi_decode"]
            .map(|stage| (stage, 0.0))
            .into()
    }

    fn delay(&self) -> usize {
        0
    }
}

//! Frames sampled on the processor: one temporal pass, then the sub-steps of the depth
//! transformer, with a draw after each.

use std::time::Instant;

use super::{Draw, Frame, FrameLogits, FrameTokens, Instruments, LmState};
use crate::cpu::{Isa, for_each_chunk};
use crate::error::Result;
use crate::lm::LmConfig;
use crate::lm::random::uniform;
use crate::lm::sampling;

/// The two transformers of the slots of a stream, one pass at a time.
pub(crate) trait Transformers: Instruments + Send {
    /// One pass of the temporal transformer for the given slots (ascending, distinct); see
    /// [`Frame`] for `tokens` and `conditions`. Writes `[rows, text_card_out]` to `logits`. The
    /// slots do not advance.
    fn temporal(
        &mut self,
        slots: &[usize],
        tokens: &[i32],
        conditions: &[f32],
        logits: &mut [f32],
    ) -> Result<()>;

    /// The extra heads for the rows of the last temporal pass: writes logits, `[rows, extra heads,
    /// classes]`. Asked only of models that have such heads.
    fn heads(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Sub-step `k` for the rows of the last temporal pass: `previous` holds the text token
    /// (k = 0) or the code of codebook `k - 1`, or -1; writes `[rows, card]` to `logits`.
    fn depth(&mut self, k: usize, previous: &[i32], logits: &mut [f32]) -> Result<()>;

    /// Ends the frame of the given slots: each is one position further.
    fn advance(&mut self, slots: &[usize]);

    /// Returns a slot to its beginning.
    fn reset(&mut self, slot: usize) -> Result<()>;

    /// Bytes of running state held for a slot now.
    fn slot_bytes(&self, slot: usize) -> usize;
}

/// [`LmState`] over [`Transformers`].
pub(crate) struct HostSampled<T> {
    pub(crate) transformers: T,
    isa: Isa,
    text_card: usize,
    card: usize,
    spoken: usize,
    /// Count and classes.
    heads: (usize, usize),
    /// Rows of the last frame.
    rows: usize,
    /// `[rows, text_card]`.
    text_logits: Vec<f32>,
    /// `[spoken, rows, card]`.
    audio_logits: Vec<f32>,
    picks: Vec<Pick>,
    seconds: f64,
}

/// A token, and whether all of its logits are numbers.
#[derive(Clone, Copy, Default)]
struct Pick {
    token: i32,
    finite: bool,
}

impl<T: Transformers> HostSampled<T> {
    pub(crate) fn new(transformers: T, config: &LmConfig) -> Self {
        Self {
            transformers,
            isa: Isa::detect(),
            text_card: config.text_card_out,
            card: config.card,
            spoken: config.spoken,
            heads: config.extra_heads,
            rows: 0,
            text_logits: Vec::new(),
            audio_logits: Vec::new(),
            picks: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl<T: Transformers + 'static> LmState for HostSampled<T> {
    fn step(&mut self, frame: &Frame<'_>) -> Result<FrameTokens> {
        let (rows, spoken) = (frame.slots.len(), self.spoken);
        self.rows = 0;
        self.text_logits.resize(rows * self.text_card, 0.0);
        self.audio_logits.resize(spoken * rows * self.card, 0.0);
        self.picks.resize(rows, Pick::default());
        let mut made = FrameTokens {
            text: Vec::with_capacity(rows),
            audio: vec![0; rows * spoken],
            heads: Vec::new(),
            finite: Vec::with_capacity(rows),
        };
        let logits = &mut self.text_logits;
        self.transformers
            .temporal(frame.slots, frame.tokens, frame.conditions, logits)?;
        let started = Instant::now();
        let forced = |row: usize| frame.force_text.get(row).copied();
        let text = |draw: &Draw| (draw.sampling.temp_text, draw.sampling.top_k_text);
        pick(self.isa, logits, frame, 0, text, forced, &mut self.picks)?;
        for pick in &self.picks {
            made.text.push(pick.token);
            made.finite.push(pick.finite);
        }
        self.seconds += started.elapsed().as_secs_f64();

        let (heads, classes) = self.heads;
        if heads > 0 {
            made.heads.resize(rows * heads * classes, 0.0);
            self.transformers.heads(&mut made.heads)?;
            let each = made.heads.chunks_exact_mut(heads * classes);
            for (heads, finite) in each.zip(&mut made.finite) {
                *finite &= all_finite(heads);
                heads.chunks_exact_mut(classes).for_each(softmax);
            }
        }

        let mut previous = made.text.clone();
        for k in 0..spoken {
            let logits = &mut self.audio_logits[k * rows * self.card..][..rows * self.card];
            self.transformers.depth(k, &previous, logits)?;
            let started = Instant::now();
            let forced = |row: usize| frame.force_audio.get(row * spoken + k).copied();
            let audio = |draw: &Draw| (draw.sampling.temp, draw.sampling.top_k);
            let number = 1 + k as u64;
            pick(
                self.isa,
                logits,
                frame,
                number,
                audio,
                forced,
                &mut self.picks,
            )?;
            for (row, pick) in self.picks.iter().enumerate() {
                previous[row] = pick.token;
                made.audio[row * spoken + k] = pick.token;
                made.finite[row] &= pick.finite;
            }
            self.seconds += started.elapsed().as_secs_f64();
        }
        self.transformers.advance(frame.slots);
        self.rows = rows;
        Ok(made)
    }

    fn logits(&mut self) -> Result<FrameLogits> {
        let (rows, card) = (self.rows, self.card);
        let mut audio = Vec::with_capacity(rows * self.spoken * card);
        for row in 0..rows {
            for k in 0..self.spoken {
                audio.extend_from_slice(&self.audio_logits[(k * rows + row) * card..][..card]);
            }
        }
        Ok(FrameLogits {
            text: self.text_logits[..rows * self.text_card].to_vec(),
            audio,
        })
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        self.transformers.reset(slot)
    }

    fn slot_bytes(&self, slot: usize) -> usize {
        self.transformers.slot_bytes(slot)
    }
}

impl<T: Transformers> Instruments for HostSampled<T> {
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        let mut stages = self.transformers.stage_seconds();
        stages.push(("sampling", self.seconds));
        stages
    }

    fn clear_stage_seconds(&mut self) {
        self.transformers.clear_stage_seconds();
        self.seconds = 0.0;
    }

    fn skip(&mut self, steps: usize) -> Result<()> {
        self.transformers.skip(steps)
    }
}

/// A token for every row of `logits`: the forced one, or draw `number` of the row's step.
/// `settings` gives temperature and top-k.
fn pick(
    isa: Isa,
    logits: &[f32],
    frame: &Frame<'_>,
    number: u64,
    settings: impl Fn(&Draw) -> (f32, usize) + Sync + Send,
    forced: impl Fn(usize) -> Option<i32> + Sync + Send,
    picks: &mut [Pick],
) -> Result<()> {
    let width = logits.len() / picks.len().max(1);
    for_each_chunk(picks, 1, |row, pick| {
        let (logits, draw) = (&logits[row * width..][..width], &frame.draws[row]);
        let token = match forced(row).filter(|token| *token >= 0) {
            Some(token) => token,
            None => {
                let (temp, top_k) = settings(draw);
                let u = uniform(draw.seed, draw.step, number);
                sampling::token(isa, logits, temp, top_k, u)
            }
        };
        pick[0] = Pick {
            token,
            finite: all_finite(logits),
        };
        Ok(())
    })
}

/// Logits become probabilities.
pub(crate) fn softmax(values: &mut [f32]) {
    let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - top).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
}

/// Whether no value is NaN or infinite.
fn all_finite(values: &[f32]) -> bool {
    // Zero times a number is zero, and NaN otherwise; sixteen sums side by side fill vectors.
    let (many, rest) = values.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for values in many {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value * 0.0;
        }
    }
    sums.iter().all(|sum| *sum == 0.0) && rest.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_that_is_no_number_is_found_wherever_it_is() {
        let values: Vec<f32> = (0..50).map(|i| (i - 25) as f32 * 1e37).collect();
        assert!(all_finite(&values) && all_finite(&[]));
        for at in 0..values.len() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = values.clone();
                values[at] = bad;
                assert!(!all_finite(&values), "{bad} at {at}");
            }
        }
    }
}

//! What a step does: Mimi, Moshi, Mimi; or an echo that takes as long.

use crate::codec::{Mimi, MimiStream, Window};
use crate::error::{Error, Result};
use crate::lm::{Moshi, MoshiStream, Sampling, StepInput};

/// Samples of a frame.
pub const FRAME_SIZE: usize = 1920;

/// How a conversation begins.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Start {
    /// Seed of its sampling.
    pub seed: u64,
    /// Its sampling settings; the model's own if `None`.
    pub sampling: Option<Sampling>,
}

/// What one row of a step gave.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// A frame of audio, once the model's delays are over.
    pub audio: Option<Vec<f32>>,
    /// Text token of that frame; negative if there is none.
    pub text: i32,
    /// What is wrong with this row alone.
    pub fault: Option<String>,
}

/// Slots that are stepped together.
pub trait Pipeline: Send {
    /// Number of slots.
    fn slots(&self) -> usize;
    /// Begins a conversation in a slot.
    fn begin(&mut self, slot: usize, start: &Start) -> Result<()>;
    /// One frame of each of `slots` (ascending); `pcm` is `[slots, 1920]`, finite. One answer for
    /// each, in order. After an error the state of these slots is unknown.
    fn step(&mut self, slots: &[usize], pcm: &[f32]) -> Result<Vec<Answer>>;
    /// Makes all state anew, after a panic.
    fn renew(&mut self) -> Result<()>;
    /// Bytes of running state.
    fn state_bytes(&self) -> usize;
    /// Seconds of each stage of the last step.
    fn stage_seconds(&self) -> [(&'static str, f64); 3];
    /// Frames from a frame of input to the answer that belongs to it.
    fn delay(&self) -> usize;
}

/// The model: codec and language model, stepped with only the slots that have a frame.
pub struct Duplex {
    mimi: Mimi,
    moshi: Moshi,
    codec: MimiStream,
    lm: MoshiStream,
    /// The first step of these slots is still to come.
    fresh: Vec<bool>,
    seconds: [f64; 3],
}

impl Duplex {
    /// `slots` conversations.
    ///
    /// # Errors
    /// [`Error::OptionValue`] if codec and model do not belong together or `slots` is no number
    /// of slots.
    pub fn new(mimi: Mimi, moshi: Moshi, slots: usize) -> Result<Self> {
        let config = moshi.config();
        if config.spoken == 0 {
            return Err(Error::OptionValue {
                name: "model",
                got: "a model that does not speak (dep_q is 0)".into(),
                allowed: "a model that speaks".into(),
            });
        }
        if mimi.config().quantizer.bins != config.card
            || mimi.num_codebooks() < config.user_codebooks()
            || mimi.config().quantizer.n_q < config.spoken
            || mimi.config().frame_size() != FRAME_SIZE
        {
            return Err(Error::OptionValue {
                name: "mimi",
                got: format!(
                    "a codec with {} codebooks of {} entries and frames of {} samples",
                    mimi.num_codebooks(),
                    mimi.config().quantizer.bins,
                    mimi.config().frame_size()
                ),
                allowed: format!(
                    "the codec that belongs to the model: {} codebooks of {} entries, frames of \
                     {FRAME_SIZE} samples",
                    config.user_codebooks(),
                    config.card
                ),
            });
        }
        let codec = mimi.stream(slots, Window::Streaming)?;
        let lm = moshi.stream(&vec![0; slots], &vec![config.sampling; slots])?;
        Ok(Self {
            codec,
            lm,
            mimi,
            moshi,
            fresh: vec![true; slots],
            seconds: [0.0; 3],
        })
    }

    /// A mask of all slots from a list.
    fn mask(&self, slots: &[usize]) -> Vec<bool> {
        let mut mask = vec![false; self.fresh.len()];
        slots.iter().for_each(|s| mask[*s] = true);
        mask
    }
}

impl Pipeline for Duplex {
    fn slots(&self) -> usize {
        self.fresh.len()
    }

    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        let sampling = start.sampling.unwrap_or(self.moshi.config().sampling);
        self.lm.set_sampling(slot, sampling)?;
        self.lm.set_seed(slot, start.seed)?;
        self.lm.reset(Some(&[slot]))?;
        self.codec.reset(Some(&[slot]))?;
        self.fresh[slot] = true;
        Ok(())
    }

    fn step(&mut self, slots: &[usize], pcm: &[f32]) -> Result<Vec<Answer>> {
        let count = self.slots();
        let active = self.mask(slots);
        let started = std::time::Instant::now();
        let mut all = vec![0.0; count * FRAME_SIZE];
        for (slot, frame) in slots.iter().zip(pcm.chunks_exact(FRAME_SIZE)) {
            all[slot * FRAME_SIZE..][..FRAME_SIZE].copy_from_slice(frame);
        }
        let codes = self.codec.encode(&all, Some(&active))?;
        let encoded = started.elapsed().as_secs_f64();

        let heard = codes.len() / count;
        let fresh: Vec<usize> = slots.iter().copied().filter(|s| self.fresh[*s]).collect();
        if !fresh.is_empty() {
            // The model never looks at the codes of its first step: they are given twice.
            let first = rows_of(&codes, heard, &fresh);
            self.lm.step(step_input(&fresh, &first, heard))?;
        }
        let mine = rows_of(&codes, heard, slots);
        let out = self.lm.step(step_input(slots, &mine, heard))?;
        slots.iter().for_each(|s| self.fresh[*s] = false);
        let stepped = started.elapsed().as_secs_f64();

        let spoken = self.moshi.config().spoken;
        let mut audio = Vec::new();
        if out.ready.contains(&true) {
            let (mut codes, mut ready) = (vec![0i64; count * spoken], vec![false; count]);
            for (row, slot) in slots.iter().enumerate().filter(|(row, _)| out.ready[*row]) {
                ready[*slot] = true;
                let to = &mut codes[slot * spoken..][..spoken];
                let from = &out.audio[row * spoken..][..spoken];
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, code)| *to = i64::from(*code));
            }
            audio = self.codec.decode(&codes, spoken, Some(&ready))?;
        }
        let decoded = started.elapsed().as_secs_f64();
        self.seconds = [encoded, stepped - encoded, decoded - stepped];

        let answer = |(row, slot): (usize, &usize)| {
            let fault = (!out.finite[row])
                .then(|| "the model's output is not finite; the weights may be damaged".to_owned());
            Answer {
                audio: out.ready[row].then(|| audio[slot * FRAME_SIZE..][..FRAME_SIZE].to_vec()),
                text: out.text[row],
                fault,
            }
        };
        Ok(slots.iter().enumerate().map(answer).collect())
    }

    fn renew(&mut self) -> Result<()> {
        *self = Self::new(self.mimi.clone(), self.moshi.clone(), self.slots())?;
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.codec.state_bytes() + self.lm.state_bytes()
    }

    fn stage_seconds(&self) -> [(&'static str, f64); 3] {
        let [encode, lm, decode] = self.seconds;
        [("mimi_encode", encode), ("lm", lm), ("mimi_decode", decode)]
    }

    fn delay(&self) -> usize {
        self.moshi.config().max_delay()
    }
}

/// The rows of some slots, of codes `[slots, codebooks]`.
fn rows_of(codes: &[i32], codebooks: usize, slots: &[usize]) -> Vec<i32> {
    let rows = slots
        .iter()
        .map(|slot| &codes[slot * codebooks..][..codebooks]);
    rows.flatten().copied().collect()
}

/// A step of some slots with their rows of codes.
fn step_input<'a>(slots: &'a [usize], codes: &'a [i32], codebooks: usize) -> StepInput<'a> {
    StepInput {
        slots,
        user_codes: codes,
        codebooks,
        ..StepInput::default()
    }
}

/// Gives every frame back. Stands for a model where only what is around it shall be measured or
/// tested: it sleeps as long as a step would take and computes nothing.
pub struct Echo {
    slots: usize,
    /// Seconds of a step with no rows, and of each row.
    seconds: (f64, f64),
    /// Frames answered, per slot.
    answered: Vec<u64>,
}

impl Echo {
    /// `slots` conversations; a step of n rows takes `base + n * per_row` seconds.
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
            answered: vec![0; slots],
        })
    }
}

impl Pipeline for Echo {
    fn slots(&self) -> usize {
        self.slots
    }

    fn begin(&mut self, slot: usize, _start: &Start) -> Result<()> {
        self.answered[slot] = 0;
        Ok(())
    }

    fn step(&mut self, slots: &[usize], pcm: &[f32]) -> Result<Vec<Answer>> {
        let seconds = self.seconds.0 + self.seconds.1 * slots.len() as f64;
        if seconds > 0.0 {
            std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
        }
        let frames = slots.iter().zip(pcm.chunks_exact(FRAME_SIZE));
        let answer = |(slot, frame): (&usize, &[f32])| {
            self.answered[*slot] += 1;
            Answer {
                audio: Some(frame.to_vec()),
                text: -1,
                fault: None,
            }
        };
        Ok(frames.map(answer).collect())
    }

    fn renew(&mut self) -> Result<()> {
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn stage_seconds(&self) -> [(&'static str, f64); 3] {
        [("mimi_encode", 0.0), ("lm", 0.0), ("mimi_decode", 0.0)]
    }

    fn delay(&self) -> usize {
        0
    }
}

//! Codec, language model, codec: a model that hears and speaks at once.

use std::time::Instant;

use super::parts::{audio_of, chosen, fresh_rows, gpu_bytes, hears, mismatch};
use super::{FRAME_SIZE, FrameIn, FrameOut, GpuBytes, NOT_FINITE, Pipeline, Start};
use crate::codec::{Mimi, MimiStream, Window};
use crate::error::{Error, Result};
use crate::lm::{Moshi, MoshiStream, Sampling, StepInput};

/// The stages of a step, in order.
const STAGES: [&str; 3] = ["mimi_encode", "lm", "mimi_decode"];

/// What a step gives: a row for each slot that was stepped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DuplexStep {
    /// `[rows, frame_size]`: the frame that is now complete; 0 where there is none.
    pub audio: Vec<f32>,
    /// `[rows]`: text token of the frame; -2 where there is none.
    pub text: Vec<i32>,
    /// `[rows]`: whether a frame was completed.
    pub ready: Vec<bool>,
    /// `[rows]`: false where the model's output was NaN or infinite, and means nothing.
    pub finite: Vec<bool>,
}

/// `slots` conversations of one language model and its codec.
///
/// The model never looks at the codes of a conversation's first step. A duplex that is `primed`
/// gives it the first codes twice, so that nothing that is said is lost.
pub struct Duplex {
    mimi: Mimi,
    moshi: Moshi,
    codec: MimiStream,
    lm: MoshiStream,
    primed: bool,
    /// Seconds of each stage: of the last step, and of all.
    last_seconds: [f64; 3],
    all_seconds: [f64; 3],
}

impl Duplex {
    /// `slots` conversations with the model's own sampling, primed, for an engine.
    ///
    /// # Errors
    /// As for [`Self::with`]; and [`Error::OptionValue`] for a codec whose frames are not those of
    /// the engine.
    pub fn new(mimi: Mimi, moshi: Moshi, slots: usize) -> Result<Self> {
        if mimi.config().frame_size() != FRAME_SIZE {
            return Err(mismatch(&mimi, &moshi));
        }
        let sampling = vec![moshi.config().sampling; slots];
        Self::with(mimi, moshi, &vec![0; slots], &sampling, true)
    }

    /// A conversation for each of `seeds`, with its settings.
    ///
    /// # Errors
    /// [`Error::OptionValue`] if codec and model do not belong together, or for a number of slots
    /// or settings that no model takes.
    pub fn with(
        mimi: Mimi,
        moshi: Moshi,
        seeds: &[u64],
        sampling: &[Sampling],
        primed: bool,
    ) -> Result<Self> {
        check(&mimi, &moshi)?;
        Ok(Self {
            codec: mimi.stream(seeds.len(), Window::Streaming)?,
            lm: moshi.stream(seeds, sampling)?,
            mimi,
            moshi,
            primed,
            last_seconds: [0.0; 3],
            all_seconds: [0.0; 3],
        })
    }

    /// The language model's running state: seeds, sampling, conditions.
    pub fn lm(&self) -> &MoshiStream {
        &self.lm
    }

    /// The same, to change settings of slots.
    pub fn lm_mut(&mut self) -> &mut MoshiStream {
        &mut self.lm
    }

    /// Seconds of each stage since the beginning.
    pub fn total_stage_seconds(&self) -> [(&'static str, f64); 3] {
        std::array::from_fn(|i| (STAGES[i], self.all_seconds[i]))
    }

    /// Begins new conversations in some slots, or in all.
    ///
    /// # Errors
    /// [`Error::SlotIndex`].
    pub fn reset(&mut self, slots: Option<&[usize]>) -> Result<()> {
        self.lm.reset(slots)?;
        self.codec.reset(slots)
    }

    /// The next frame of some slots, ascending and distinct; the others keep their state.
    ///
    /// `pcm` is `[rows, frame_size]`, a row for each of `slots`. `force_text` is `[rows]`: a text
    /// token to say instead of a sampled one, negative for none; empty for none at all.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Sample`], [`Error::SlotIndex`], [`Error::TokenRange`], or what
    /// the device says.
    pub fn step_rows(
        &mut self,
        slots: &[usize],
        pcm: &[f32],
        force_text: &[i32],
    ) -> Result<DuplexStep> {
        let (rows, size) = (slots.len(), self.mimi.config().frame_size());
        if rows == 0 {
            return Ok(DuplexStep::default());
        }
        if pcm.len() != rows * size {
            return Err(Error::Shape {
                what: "pcm",
                got: format!("[{}]", pcm.len()),
                wanted: format!("[{rows}, {size}]"),
                remedy: "give every slot of the step one frame",
            });
        }
        let started = Instant::now();
        let codes = self.codec.encode_rows(slots, pcm)?;
        let encoded = started.elapsed().as_secs_f64();

        let heard = codes.len() / rows;
        if self.primed {
            // The model never looks at the codes of its first step: they are given twice.
            let fresh = fresh_rows(&self.lm, slots);
            if !fresh.is_empty() {
                self.lm.step(StepInput {
                    slots: &chosen(slots, 1, &fresh),
                    user_codes: &chosen(&codes, heard, &fresh),
                    codebooks: heard,
                    force_text: &chosen(force_text, force_text.len() / rows, &fresh),
                    ..StepInput::default()
                })?;
            }
        }
        let out = self.lm.step(StepInput {
            slots,
            user_codes: &codes,
            codebooks: heard,
            force_text,
            ..StepInput::default()
        })?;
        let stepped = started.elapsed().as_secs_f64();

        let mut audio = vec![0.0; rows * size];
        let ready: Vec<usize> = (0..rows).filter(|row| out.ready[*row]).collect();
        if !ready.is_empty() {
            let spoken = self.moshi.config().spoken;
            let codes = chosen(&out.audio, spoken, &ready);
            let frames = self
                .codec
                .decode_rows(&chosen(slots, 1, &ready), &codes, spoken)?;
            for (row, frame) in ready.iter().zip(frames.chunks_exact(size)) {
                audio[row * size..][..size].copy_from_slice(frame);
            }
        }
        let decoded = started.elapsed().as_secs_f64();
        self.last_seconds = [encoded, stepped - encoded, decoded - stepped];
        for (all, last) in self.all_seconds.iter_mut().zip(self.last_seconds) {
            *all += last;
        }
        Ok(DuplexStep {
            audio,
            text: out.text,
            ready: out.ready,
            finite: out.finite,
        })
    }
}

/// Whether codec and model belong together.
fn check(mimi: &Mimi, moshi: &Moshi) -> Result<()> {
    let config = moshi.config();
    if config.spoken == 0 {
        return Err(Error::OptionValue {
            name: "model",
            got: "a model that does not speak (dep_q is 0)".into(),
            allowed: "a model that speaks".into(),
        });
    }
    match hears(mimi, moshi) && mimi.config().quantizer.n_q >= config.spoken {
        true => Ok(()),
        false => Err(mismatch(mimi, moshi)),
    }
}

impl Pipeline for Duplex {
    fn slots(&self) -> usize {
        self.lm.slots()
    }

    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        let sampling = start.sampling.unwrap_or(self.moshi.config().sampling);
        self.lm.set_sampling(slot, sampling)?;
        self.lm.set_seed(slot, start.seed)?;
        self.reset(Some(&[slot]))
    }

    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        let (slots, pcm) = audio_of(rows)?;
        let out = self.step_rows(&slots, &pcm, &[])?;
        let answer = |(row, frame): (usize, &[f32])| FrameOut {
            audio: out.ready[row].then(|| frame.to_vec()),
            text: Some(out.text[row]).filter(|token| *token >= 0),
            pauses: Vec::new(),
            fault: (!out.finite[row]).then(|| NOT_FINITE.to_owned()),
        };
        let frames = out.audio.chunks_exact(FRAME_SIZE).enumerate();
        Ok(frames.map(answer).collect())
    }

    fn renew(&mut self) -> Result<()> {
        *self = Self::new(self.mimi.clone(), self.moshi.clone(), self.slots())?;
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.codec.state_bytes() + self.lm.state_bytes()
    }

    fn gpu_bytes(&self) -> GpuBytes {
        gpu_bytes((&self.moshi, &self.lm), (&self.mimi, &self.codec))
    }

    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        STAGES.into_iter().zip(self.last_seconds).collect()
    }

    fn is_word(&self, token: i32) -> bool {
        let config = self.moshi.config();
        let pauses = [config.padding_id, config.end_padding_id];
        usize::try_from(token).is_ok_and(|id| !pauses.contains(&id))
    }

    fn delay(&self) -> usize {
        self.moshi.config().max_delay()
    }
}

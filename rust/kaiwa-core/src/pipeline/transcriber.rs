//! Codec and language model: a model that hears and writes down what is said.

use std::time::Instant;

use super::parts::{audio_of, chosen, fresh_rows, gpu_bytes, hears, mismatch};
use super::{FRAME_RATE, FRAME_SIZE, FrameIn, FrameOut, GpuBytes, NOT_FINITE, Pipeline, Start};
use crate::codec::{Mimi, MimiStream, Window};
use crate::error::{Error, Result};
use crate::lm::{Moshi, MoshiStream, StepInput};

/// Seconds of silence after which the last word of a recording is closed, beside the model's delay.
const CLOSING_SECONDS: f64 = 1.0;

/// `slots` transcriptions by one language model and its codec.
///
/// Every frame of audio has one answer at once: a text token, and the probabilities of a pause. The
/// model never looks at the codes of a first step, so they are given twice, and nothing that is said
/// is lost; the step before the first answer counts as a step of the model.
pub struct Transcriber {
    mimi: Mimi,
    moshi: Moshi,
    codec: MimiStream,
    lm: MoshiStream,
    /// Seconds of the codec and of the language model in the last step.
    seconds: [f64; 2],
}

impl Transcriber {
    /// Slots for so many transcriptions.
    ///
    /// # Errors
    /// [`Error::OptionValue`] if codec and model do not belong together, for a model that is not one
    /// for speech to text, or a number of slots that no model takes.
    pub fn new(mimi: Mimi, moshi: Moshi, slots: usize) -> Result<Self> {
        let config = moshi.config();
        if config.speech_to_text.is_none() {
            return Err(Error::OptionValue {
                name: "model",
                got: format!("a {} model, which speaks", config.model_type),
                allowed: "a speech to text model (dep_q is 0), such as kyutai/stt-1b-en_fr".into(),
            });
        }
        if !hears(&mimi, &moshi) || mimi.config().frame_size() != FRAME_SIZE {
            return Err(mismatch(&mimi, &moshi));
        }
        let sampling = vec![config.sampling; slots];
        Ok(Self {
            codec: mimi.stream(slots, Window::Streaming)?,
            lm: moshi.stream(&vec![0; slots], &sampling)?,
            mimi,
            moshi,
            seconds: [0.0; 2],
        })
    }
}

impl Pipeline for Transcriber {
    fn slots(&self) -> usize {
        self.lm.slots()
    }

    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        let sampling = start.sampling.unwrap_or(self.moshi.config().sampling);
        self.lm.set_sampling(slot, sampling)?;
        self.lm.set_seed(slot, start.seed)?;
        self.lm.reset(Some(&[slot]))?;
        self.codec.reset(Some(&[slot]))
    }

    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let (slots, pcm) = audio_of(rows)?;
        let codes = self.codec.encode_rows(&slots, &pcm)?;
        let encoded = started.elapsed().as_secs_f64();
        let codebooks = codes.len() / slots.len();
        let fresh = fresh_rows(&self.lm, &slots);
        if !fresh.is_empty() {
            self.lm.step(StepInput {
                slots: &chosen(&slots, 1, &fresh),
                user_codes: &chosen(&codes, codebooks, &fresh),
                codebooks,
                ..StepInput::default()
            })?;
        }
        let out = self.lm.step(StepInput {
            slots: &slots,
            user_codes: &codes,
            codebooks,
            ..StepInput::default()
        })?;
        self.seconds = [encoded, started.elapsed().as_secs_f64() - encoded];
        let (heads, classes) = self.moshi.config().extra_heads;
        let answer = |row: usize| FrameOut {
            audio: None,
            text: Some(out.step_text[row]),
            // The first class of every head.
            pauses: (0..heads)
                .map(|head| out.heads[(row * heads + head) * classes])
                .collect(),
            fault: (!out.finite[row]).then(|| NOT_FINITE.to_owned()),
        };
        Ok((0..slots.len()).map(answer).collect())
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
        ["mimi_encode", "lm"]
            .into_iter()
            .zip(self.seconds)
            .collect()
    }

    fn delay(&self) -> usize {
        self.moshi.config().max_delay()
    }

    fn tail(&self) -> usize {
        let stt = self.moshi.config().speech_to_text;
        let delay = stt.map_or(0.0, |stt| stt.audio_delay_seconds);
        ((delay + CLOSING_SECONDS) * FRAME_RATE) as usize
    }
}

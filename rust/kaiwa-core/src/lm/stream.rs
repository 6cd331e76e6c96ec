//! Streaming: N conversations stepped together, each with its own position, seed and settings.

use super::backend::LmState;
use super::delays::{NOTHING, TokenCache};
use super::random::uniform;
use super::sampling;
use super::{Moshi, Sampling};
use crate::cpu::{Isa, for_each_chunk};
use crate::error::{Error, Result};

/// Largest number of slots of a stream: a guard against sizes given in the wrong unit.
pub const MAX_SLOTS: usize = 1 << 16;

/// What a step is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepInput<'a> {
    /// `[slots, codebooks]`: the user's codes of this frame; -1 is "zero", `card` the initial
    /// token. Rows of idle slots are not looked at.
    pub user_codes: &'a [i64],
    /// Codebooks in `user_codes`; what exceeds the model's is cut off.
    pub codebooks: usize,
    /// One flag a slot; all if `None`.
    pub active: Option<&'a [bool]>,
    /// `[slots]`: text token to say instead of a sampled one; negative leaves it free.
    pub force_text: Option<&'a [i64]>,
    /// `[slots, spoken]`: codes to speak instead of sampled ones; negative leaves it free.
    pub force_audio: Option<&'a [i64]>,
}

/// What a step gives; -2 stands where there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutput {
    /// `[slots]`: text token of the completed frame.
    pub text: Vec<i32>,
    /// `[slots, spoken]`: codes of the completed frame.
    pub audio: Vec<i32>,
    /// `[slots]`: true where a frame was completed.
    pub ready: Vec<bool>,
    /// `[slots]`: text token chosen at this step.
    pub step_text: Vec<i32>,
    /// `[slots, spoken]`: codes chosen at this step; of later frames for delayed codebooks.
    pub step_audio: Vec<i32>,
}

/// Running state of `slots` conversations over one [`Moshi`].
///
/// A slot's tokens depend on its own inputs, seed and settings since its last reset, and on
/// nothing else.
pub struct MoshiStream {
    moshi: Moshi,
    state: Box<dyn LmState>,
    slots: Vec<Slot>,
    isa: Isa,
    text_logits: Vec<f32>,
    audio_logits: Vec<f32>,
    sampling_seconds: f64,
    /// Scratch for the active rows: inputs, conditions, logits.
    tokens: Vec<i32>,
    conditions: Vec<f32>,
    row_logits: Vec<f32>,
}

struct Slot {
    cache: TokenCache,
    seed: u64,
    sampling: Sampling,
    conditions: Vec<usize>,
}

impl MoshiStream {
    pub(super) fn new(moshi: Moshi, seeds: &[u64], sampling: &[Sampling]) -> Result<Self> {
        let count = seeds.len();
        if count == 0 || count > MAX_SLOTS {
            return Err(Error::OptionValue {
                name: "slots",
                got: count.to_string(),
                allowed: format!("1 to {MAX_SLOTS}"),
            });
        }
        if sampling.len() != count {
            return Err(Error::OptionValue {
                name: "sampling",
                got: format!("{} entries", sampling.len()),
                allowed: format!("one entry for each of the {count} slots"),
            });
        }
        sampling.iter().try_for_each(check_sampling)?;
        let config = moshi.config();
        let cache = TokenCache::new(
            &config.delays,
            config.spoken + 1,
            (config.text_card as i32, config.card as i32),
        );
        let initial = moshi.conditions().initial();
        let slot = |(seed, sampling): (&u64, &Sampling)| Slot {
            cache: cache.clone(),
            seed: *seed,
            sampling: *sampling,
            conditions: initial.clone(),
        };
        Ok(Self {
            state: moshi.backend().clone().state(count)?,
            slots: seeds.iter().zip(sampling).map(slot).collect(),
            isa: Isa::detect(),
            text_logits: vec![0.0; count * config.text_card_out],
            audio_logits: vec![0.0; count * config.spoken * config.card],
            sampling_seconds: 0.0,
            tokens: Vec::new(),
            conditions: Vec::new(),
            row_logits: Vec::new(),
            moshi,
        })
    }

    /// The weights this stream runs on.
    pub fn moshi(&self) -> &Moshi {
        &self.moshi
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Steps of each slot since its last reset.
    pub fn steps(&self) -> Vec<u64> {
        self.slots.iter().map(|s| s.cache.step()).collect()
    }

    /// Seed of each slot.
    pub fn seeds(&self) -> Vec<u64> {
        self.slots.iter().map(|s| s.seed).collect()
    }

    /// Bytes of keys and values held now, all slots.
    pub fn state_bytes(&self) -> usize {
        self.slot_bytes().iter().sum()
    }

    /// Bytes of keys and values held now, per slot.
    pub fn slot_bytes(&self) -> Vec<usize> {
        (0..self.slots())
            .map(|slot| self.state.slot_bytes(slot))
            .collect()
    }

    /// Text logits of the last step, `[slots, text_card]`; zeros for slots that were idle.
    pub fn text_logits(&self) -> &[f32] {
        &self.text_logits
    }

    /// Audio logits of the last step, `[slots, spoken, card]`; zeros for slots that were idle.
    pub fn audio_logits(&self) -> &[f32] {
        &self.audio_logits
    }

    /// Seconds spent in each stage since the last clearing.
    pub fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        let mut stages = self.state.stage_seconds();
        stages.push(("sampling", self.sampling_seconds));
        stages
    }

    /// Starts the count of [`Self::stage_seconds`] anew.
    pub fn clear_stage_seconds(&mut self) {
        self.state.clear_stage_seconds();
        self.sampling_seconds = 0.0;
    }

    /// Sampling settings of a slot.
    pub fn sampling(&self, slot: usize) -> Result<Sampling> {
        Ok(self.slot(slot)?.sampling)
    }

    /// Changes the sampling settings of a slot from the next step on.
    pub fn set_sampling(&mut self, slot: usize, sampling: Sampling) -> Result<()> {
        check_sampling(&sampling)?;
        self.slot_mut(slot)?.sampling = sampling;
        Ok(())
    }

    /// Changes the seed of a slot from the next step on.
    pub fn set_seed(&mut self, slot: usize, seed: u64) -> Result<()> {
        self.slot_mut(slot)?.seed = seed;
        Ok(())
    }

    /// Chooses the value of a condition for a slot from the next step on; `None` means absent.
    pub fn set_condition(&mut self, slot: usize, name: &str, value: Option<&str>) -> Result<()> {
        let (at, value) = self.moshi.conditions().find(name, value)?;
        self.slot_mut(slot)?.conditions[at] = value;
        Ok(())
    }

    /// Moves every slot on by `steps` positions without computing them: for benchmarks of a full
    /// window. What is said afterwards means nothing.
    pub fn prefill_silence(&mut self, steps: usize) -> Result<()> {
        self.state.skip(steps)
    }

    fn slot(&self, slot: usize) -> Result<&Slot> {
        let slots = self.slots.len();
        self.slots
            .get(slot)
            .ok_or(Error::SlotIndex { got: slot, slots })
    }

    fn slot_mut(&mut self, slot: usize) -> Result<&mut Slot> {
        let slots = self.slots.len();
        self.slots
            .get_mut(slot)
            .ok_or(Error::SlotIndex { got: slot, slots })
    }

    /// Returns slots (all if `None`) to their beginning; seeds and settings stay.
    pub fn reset(&mut self, slots: Option<&[usize]>) -> Result<()> {
        let all: Vec<usize> = (0..self.slots.len()).collect();
        let chosen = slots.unwrap_or(&all);
        // Checked before anything changes.
        chosen.iter().try_for_each(|s| self.slot(*s).map(|_| ()))?;
        for slot in chosen {
            self.state.reset(*slot)?;
            self.slots[*slot].cache.reset();
        }
        Ok(())
    }

    /// One step of every active slot: the text token, then the codebooks, each conditioned on the
    /// choice before it.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::UserCode`] or [`Error::TokenRange`] for bad input; nothing
    /// has changed then.
    pub fn step(&mut self, input: StepInput<'_>) -> Result<StepOutput> {
        let count = self.slots.len();
        // Shared pointers: nothing is copied.
        let moshi = self.moshi.clone();
        let config = moshi.config();
        let active = self.check(&input)?;
        let on: Vec<usize> = (0..count).filter(|s| active[*s]).collect();
        let (rows, made, books) = (on.len(), config.spoken + 1, config.user_codebooks());
        let mut output = StepOutput {
            text: vec![NOTHING; count],
            audio: vec![NOTHING; count * config.spoken],
            ready: vec![false; count],
            step_text: vec![NOTHING; count],
            step_audio: vec![NOTHING; count * config.spoken],
        };
        // Those of active slots are written below.
        for slot in (0..count).filter(|s| !active[*s]) {
            let (text, audio) = (config.text_card_out, config.spoken * config.card);
            self.text_logits[slot * text..][..text].fill(0.0);
            self.audio_logits[slot * audio..][..audio].fill(0.0);
        }
        if rows == 0 {
            return Ok(output);
        }

        // Inputs. The caches of active slots may be written before the step succeeds: a retry
        // writes the same columns again.
        let columns = config.n_q + 1;
        self.tokens.resize(rows * columns, 0);
        let mut user = vec![0i32; books];
        for (slot, tokens) in on.iter().zip(self.tokens.chunks_exact_mut(columns)) {
            let codes = &input.user_codes[slot * input.codebooks..][..books];
            user.iter_mut().zip(codes).for_each(|(u, c)| *u = *c as i32);
            self.slots[*slot].cache.input(&user, tokens);
        }
        self.conditions.clear();
        if !self.moshi.conditions().is_empty() {
            self.conditions.resize(rows * config.dim, 0.0);
            let to = self.conditions.chunks_exact_mut(config.dim);
            for (slot, to) in on.iter().zip(to) {
                let chosen = &self.slots[*slot].conditions;
                self.moshi.conditions().sum(chosen, to);
            }
        }

        // Text.
        let width = config.text_card_out;
        self.row_logits.resize(rows * width.max(config.card), 0.0);
        let logits = &mut self.row_logits[..rows * width];
        self.state
            .temporal(&on, &self.tokens, &self.conditions, logits)?;
        let started = std::time::Instant::now();
        let mut previous = vec![0i32; rows];
        for (row, slot) in on.iter().enumerate() {
            let logits = &logits[row * width..][..width];
            self.text_logits[slot * width..][..width].copy_from_slice(logits);
        }
        let (slots, isa) = (&self.slots, self.isa);
        let choice = |row: usize, token: &mut [i32]| {
            let one = &slots[on[row]];
            let forced = input.force_text.map(|f| f[on[row]]).filter(|t| *t >= 0);
            token[0] = match forced {
                Some(token) => token as i32,
                None => {
                    let logits = &logits[row * width..][..width];
                    let u = uniform(one.seed, one.cache.step(), 0);
                    let s = one.sampling;
                    sampling::token(isa, logits, s.temp_text, s.top_k_text, u)
                }
            };
            Ok(())
        };
        for_each_chunk(&mut previous, 1, choice)?;
        for (slot, token) in on.iter().zip(&previous) {
            output.step_text[*slot] = *token;
        }
        self.sampling_seconds += started.elapsed().as_secs_f64();

        // Audio.
        let width = config.card;
        for k in 0..config.spoken {
            let logits = &mut self.row_logits[..rows * width];
            self.state.depth(k, &previous, logits)?;
            let started = std::time::Instant::now();
            for (row, slot) in on.iter().enumerate() {
                let at = slot * config.spoken + k;
                let logits = &logits[row * width..][..width];
                self.audio_logits[at * width..][..width].copy_from_slice(logits);
            }
            let slots = &self.slots;
            let choice = |row: usize, token: &mut [i32]| {
                let (one, at) = (&slots[on[row]], on[row] * config.spoken + k);
                let forced = input.force_audio.map(|f| f[at]).filter(|t| *t >= 0);
                token[0] = match forced {
                    Some(token) => token as i32,
                    None => {
                        let logits = &logits[row * width..][..width];
                        let u = uniform(one.seed, one.cache.step(), 1 + k as u64);
                        let s = one.sampling;
                        sampling::token(isa, logits, s.temp, s.top_k, u)
                    }
                };
                Ok(())
            };
            for_each_chunk(&mut previous, 1, choice)?;
            for (slot, token) in on.iter().zip(&previous) {
                output.step_audio[slot * config.spoken + k] = *token;
            }
            self.sampling_seconds += started.elapsed().as_secs_f64();
        }

        // Un-delayed output.
        let (mut tokens, mut frame) = (vec![0i32; made], vec![0i32; made]);
        for slot in on {
            tokens[0] = output.step_text[slot];
            let at = slot * config.spoken..(slot + 1) * config.spoken;
            tokens[1..].copy_from_slice(&output.step_audio[at.clone()]);
            if self.slots[slot].cache.output(&tokens, &mut frame) {
                output.ready[slot] = true;
                output.text[slot] = frame[0];
                output.audio[at].copy_from_slice(&frame[1..]);
            }
        }
        Ok(output)
    }

    /// The mask of active slots, after checking everything that counts.
    fn check(&self, input: &StepInput<'_>) -> Result<Vec<bool>> {
        let count = self.slots.len();
        let config = self.moshi.config();
        let books = config.user_codebooks();
        let active = match input.active {
            None => vec![true; count],
            Some(mask) if mask.len() == count => mask.to_vec(),
            Some(mask) => {
                return Err(Error::Shape {
                    what: "active",
                    got: format!("[{}]", mask.len()),
                    wanted: format!("[{count}]"),
                    remedy: "give one flag per slot",
                });
            }
        };
        if input.user_codes.len() != count * input.codebooks || input.codebooks < books {
            return Err(Error::Shape {
                what: "user_codes",
                got: match input.codebooks {
                    0 => "no codebooks".into(),
                    k => format!("[{}, {k}]", input.user_codes.len() / k),
                },
                wanted: format!("[{count}, {books}]"),
                remedy: "give a row per slot with at least the codebooks that the model listens to",
            });
        }
        let sizes = [
            ("force_text", input.force_text.map(<[i64]>::len), count),
            (
                "force_audio",
                input.force_audio.map(<[i64]>::len),
                count * config.spoken,
            ),
        ];
        for (what, got, wanted) in sizes {
            if got.is_some_and(|got| got != wanted) {
                return Err(Error::Shape {
                    what,
                    got: format!("{} values", got.unwrap_or(0)),
                    wanted: format!("{wanted} values for {count} slots"),
                    remedy: "give a value for every slot, negative where the model shall choose",
                });
            }
        }
        for slot in (0..count).filter(|s| active[*s]) {
            let row = &input.user_codes[slot * input.codebooks..][..books];
            for (codebook, &value) in row.iter().enumerate() {
                if !(-1..=config.card as i64).contains(&value) {
                    return Err(Error::UserCode {
                        slot,
                        codebook,
                        value,
                        card: config.card,
                    });
                }
            }
            let text = input.force_text.map_or(-1, |f| f[slot]);
            if text >= config.text_card as i64 {
                return Err(Error::TokenRange {
                    what: "force_text",
                    slot,
                    value: text,
                    size: config.text_card,
                });
            }
            let audio = input.force_audio.unwrap_or(&[]);
            let mine = audio.iter().skip(slot * config.spoken).take(config.spoken);
            if let Some(&value) = mine.clone().find(|v| **v >= config.card as i64) {
                return Err(Error::TokenRange {
                    what: "force_audio",
                    slot,
                    value,
                    size: config.card,
                });
            }
        }
        Ok(active)
    }

    /// Shares a state on purpose: the control of the tests on independence.
    #[cfg(test)]
    pub(crate) fn copy_slot(&mut self, from: usize, to: usize) {
        self.state.copy_slot(from, to);
        self.slots[to].cache = self.slots[from].cache.clone();
    }
}

/// Whether every setting makes sense.
///
/// # Errors
/// [`Error::OptionValue`].
pub fn check_sampling(sampling: &Sampling) -> Result<()> {
    for (name, value) in [("temp", sampling.temp), ("temp_text", sampling.temp_text)] {
        if !value.is_finite() || value < 0.0 {
            return Err(Error::OptionValue {
                name,
                got: value.to_string(),
                allowed: "a number of at least 0 (0 always takes the likeliest)".into(),
            });
        }
    }
    Ok(())
}

//! Streaming: N conversations stepped together, each with its own position, seed and settings.

use super::backend::{Draw, Frame, FrameTokens, LmState};
use super::delays::{NOTHING, TokenCache};
use super::{Moshi, Sampling};
use crate::error::{Error, Result};

/// Largest number of slots of a stream: a guard against sizes given in the wrong unit.
pub const MAX_SLOTS: usize = 1 << 16;

/// What a step is given: a row for each active slot.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepInput<'a> {
    /// The slots to step, ascending and distinct; the others keep their state.
    pub slots: &'a [usize],
    /// `[rows, codebooks]`: the user's codes of this frame; -1 is "zero", `card` the initial
    /// token.
    pub user_codes: &'a [i32],
    /// Codebooks in `user_codes`; what exceeds the model's is cut off.
    pub codebooks: usize,
    /// `[rows]`: text token to say instead of a sampled one; negative leaves it free. Empty
    /// leaves all free.
    pub force_text: &'a [i32],
    /// `[rows, spoken]`: codes to speak instead of sampled ones; negative leaves it free. Empty
    /// leaves all free.
    pub force_audio: &'a [i32],
}

/// What a step gives: a row for each slot that was stepped; -2 stands where there is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// `[rows]`: text token of the completed frame.
    pub text: Vec<i32>,
    /// `[rows, spoken]`: codes of the completed frame.
    pub audio: Vec<i32>,
    /// `[rows]`: true where a frame was completed.
    pub ready: Vec<bool>,
    /// `[rows]`: text token chosen at this step.
    pub step_text: Vec<i32>,
    /// `[rows, spoken]`: codes chosen at this step; of later frames for delayed codebooks.
    pub step_audio: Vec<i32>,
    /// `[rows, extra heads, classes]`: probabilities, of which each head's add up to 1. The first
    /// class of a head is a pause over its stretch of time (docs/spec/moshi.md 9.3).
    pub heads: Vec<f32>,
    /// `[rows]`: false where a logit was NaN or infinite, so that the tokens mean nothing.
    pub finite: Vec<bool>,
}

/// Logits of the last step: a row for each slot that was stepped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    /// The slots of the rows.
    pub slots: Vec<usize>,
    /// `[rows, text_card_out]`.
    pub text: Vec<f32>,
    /// `[rows, spoken, card]`.
    pub audio: Vec<f32>,
}

/// Running state of `slots` conversations over one [`Moshi`].
///
/// A slot's tokens depend on its own inputs, seed and settings since its last reset, and on
/// nothing else.
pub struct MoshiStream {
    moshi: Moshi,
    state: Box<dyn LmState>,
    slots: Vec<Slot>,
    /// Slots of the last step.
    last: Vec<usize>,
    /// Inputs of the active rows, reused between steps.
    tokens: Vec<i32>,
    conditions: Vec<f32>,
    draws: Vec<Draw>,
}

struct Slot {
    cache: TokenCache,
    seed: u64,
    sampling: Sampling,
    conditions: Vec<usize>,
}

impl Moshi {
    /// A stream of independent conversations, one per entry: each with a seed and sampling
    /// settings of its own.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for no or too many slots, lists of different lengths, or settings
    /// outside their range.
    pub fn stream(&self, seeds: &[u64], sampling: &[Sampling]) -> Result<MoshiStream> {
        MoshiStream::new(self.clone(), seeds, sampling)
    }
}

impl MoshiStream {
    fn new(moshi: Moshi, seeds: &[u64], sampling: &[Sampling]) -> Result<Self> {
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
            last: Vec::new(),
            tokens: Vec::new(),
            conditions: Vec::new(),
            draws: Vec::new(),
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

    /// Logits of the last step, copied (on a device: fetched) for this call.
    pub fn logits(&mut self) -> Result<Logits> {
        let logits = self.state.logits()?;
        Ok(Logits {
            slots: self.last.clone(),
            text: logits.text,
            audio: logits.audio,
        })
    }

    /// Seconds spent in each stage since the last clearing.
    pub fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        self.state.stage_seconds()
    }

    /// Starts the count of [`Self::stage_seconds`] anew.
    pub fn clear_stage_seconds(&mut self) {
        self.state.clear_stage_seconds();
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

    /// One step of the given slots: the text token, then the codebooks, each conditioned on the
    /// choice before it.
    ///
    /// # Errors
    /// [`Error::SlotIndex`], [`Error::OptionValue`], [`Error::Shape`], [`Error::UserCode`] or
    /// [`Error::TokenRange`] for bad input, or what the device says; no slot has advanced then.
    pub fn step(&mut self, input: StepInput<'_>) -> Result<StepOutput> {
        self.check(&input)?;
        self.prepare(&input);
        let frame = Frame {
            slots: input.slots,
            tokens: &self.tokens,
            conditions: &self.conditions,
            draws: &self.draws,
            force_text: input.force_text,
            force_audio: input.force_audio,
        };
        self.last.clear();
        let made = match input.slots.is_empty() {
            true => FrameTokens::default(),
            false => self.state.step(&frame)?,
        };
        self.last.extend_from_slice(input.slots);
        Ok(self.undelay(input.slots, made))
    }

    /// Inputs of the active rows. Their caches may be written before the step succeeds: a retry
    /// writes the same columns again.
    fn prepare(&mut self, input: &StepInput<'_>) {
        let Self { moshi, slots, .. } = self;
        let (config, rows) = (moshi.config(), input.slots.len());
        let (columns, books) = (config.n_q + 1, config.user_codebooks());
        self.tokens.resize(rows * columns, 0);
        self.draws.clear();
        let tokens = self.tokens.chunks_exact_mut(columns);
        for ((row, slot), tokens) in input.slots.iter().enumerate().zip(tokens) {
            let one = &mut slots[*slot];
            let user = &input.user_codes[row * input.codebooks..][..books];
            self.draws.push(Draw {
                sampling: one.sampling,
                seed: one.seed,
                step: one.cache.step(),
            });
            one.cache.input(user, tokens);
        }
        self.conditions.clear();
        if !moshi.conditions().is_empty() {
            self.conditions.resize(rows * config.dim, 0.0);
            let to = self.conditions.chunks_exact_mut(config.dim);
            for (slot, to) in input.slots.iter().zip(to) {
                moshi.conditions().sum(&slots[*slot].conditions, to);
            }
        }
    }

    /// Puts the tokens of a step into the columns of its slots, and takes out the frames that are
    /// complete.
    fn undelay(&mut self, slots: &[usize], made: FrameTokens) -> StepOutput {
        let (rows, spoken) = (slots.len(), self.moshi.config().spoken);
        let mut output = StepOutput {
            text: vec![NOTHING; rows],
            audio: vec![NOTHING; rows * spoken],
            ready: vec![false; rows],
            step_text: made.text,
            step_audio: made.audio,
            heads: made.heads,
            finite: made.finite,
        };
        let (mut tokens, mut frame) = (vec![0; spoken + 1], vec![0; spoken + 1]);
        for (row, slot) in slots.iter().enumerate() {
            let at = row * spoken..(row + 1) * spoken;
            tokens[0] = output.step_text[row];
            tokens[1..].copy_from_slice(&output.step_audio[at.clone()]);
            if self.slots[*slot].cache.output(&tokens, &mut frame) {
                output.ready[row] = true;
                output.text[row] = frame[0];
                output.audio[at].copy_from_slice(&frame[1..]);
            }
        }
        output
    }

    /// Checks everything that counts.
    fn check(&self, input: &StepInput<'_>) -> Result<()> {
        let (rows, slots) = (input.slots.len(), self.slots.len());
        let config = self.moshi.config();
        let (books, spoken) = (config.user_codebooks(), config.spoken);
        if let Some(&got) = input.slots.iter().find(|slot| **slot >= slots) {
            return Err(Error::SlotIndex { got, slots });
        }
        if !input.slots.is_sorted_by(|a, b| a < b) {
            return Err(Error::OptionValue {
                name: "slots",
                got: "slots out of order, or twice".into(),
                allowed: "each slot once, in ascending order".into(),
            });
        }
        if input.user_codes.len() != rows * input.codebooks || input.codebooks < books {
            return Err(Error::Shape {
                what: "user_codes",
                got: match input.codebooks {
                    0 => "no codebooks".into(),
                    k => format!("[{}, {k}]", input.user_codes.len() / k),
                },
                wanted: format!("[{rows}, {books}]"),
                remedy: "give a row per slot with at least the codebooks that the model listens to",
            });
        }
        for (what, got, wanted) in [
            ("force_text", input.force_text.len(), rows),
            ("force_audio", input.force_audio.len(), rows * spoken),
        ] {
            if got != 0 && got != wanted {
                return Err(Error::Shape {
                    what,
                    got: format!("{got} values"),
                    wanted: format!("{wanted} values for {rows} slots"),
                    remedy: "give a value for every slot, negative where the model shall choose",
                });
            }
        }
        for (row, &slot) in input.slots.iter().enumerate() {
            let user = &input.user_codes[row * input.codebooks..][..books];
            for (codebook, &value) in user.iter().enumerate() {
                if !(-1..=config.card as i32).contains(&value) {
                    return Err(Error::UserCode {
                        slot,
                        codebook,
                        value: value.into(),
                        card: config.card,
                    });
                }
            }
            for (what, forced, each, size) in [
                ("force_text", input.force_text, 1, config.text_card),
                ("force_audio", input.force_audio, spoken, config.card),
            ] {
                let mut mine = forced.iter().skip(row * each).take(each);
                if let Some(&value) = mine.find(|value| **value >= size as i32) {
                    return Err(Error::TokenRange {
                        what,
                        slot,
                        value: value.into(),
                        size,
                    });
                }
            }
        }
        Ok(())
    }

    /// Shares a state on purpose: the control of the tests on independence.
    #[cfg(test)]
    pub(crate) fn copy_slot(&mut self, from: usize, to: usize) {
        use super::backend::cpu::CpuState;
        use super::backend::host_sampled::HostSampled;
        let state: &mut dyn std::any::Any = &mut *self.state;
        if let Some(state) = state.downcast_mut::<HostSampled<CpuState>>() {
            state.transformers.copy_slot(from, to);
        }
        #[cfg(any(feature = "cuda", feature = "cuda-sim"))]
        if let Some(state) = state.downcast_mut::<super::backend::cuda::CudaState>() {
            state.copy_slot(from, to);
        }
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

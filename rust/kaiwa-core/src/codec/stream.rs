//! Streaming: N independent slots stepped together, each with its own state.

use super::Mimi;
use super::backend::{State, Step};
use crate::error::{Error, Result};

/// Which keys a latent step may attend to (docs/spec/mimi.md 3.1). The two differ once a stream is
/// longer than `context / 2` frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The rule of whole-signal calls: the last `context` steps.
    Whole,
    /// The rule of the reference's streaming mode, one frame at a time.
    Streaming,
}

impl Window {
    /// Parses `whole` or `streaming`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "whole" => Ok(Self::Whole),
            "streaming" => Ok(Self::Streaming),
            _ => Err(Error::OptionValue {
                name: "window",
                got: format!("{text:?}"),
                allowed: "\"streaming\" or \"whole\"".into(),
            }),
        }
    }
}

/// Encoder and decoder state of `slots` conversations over one [`Mimi`].
///
/// A slot's results depend on its own inputs since its last reset, and on nothing else: not on
/// other slots, not on how its audio was cut into calls, not on the number of threads.
pub struct MimiStream {
    mimi: Mimi,
    slots: usize,
    window: Window,
    pub(super) state: State,
}

/// Largest number of slots of a stream: a guard against sizes given in the wrong unit.
const MAX_SLOTS: usize = 1 << 16;

/// Slot-frames worked on at once; longer calls are cut, which changes nothing but memory.
const FRAMES_AT_ONCE: usize = 32;

impl MimiStream {
    pub(super) fn new(mimi: Mimi, slots: usize, window: Window) -> Result<Self> {
        if slots == 0 || slots > MAX_SLOTS {
            return Err(Error::OptionValue {
                name: "slots",
                got: slots.to_string(),
                allowed: format!("1..={MAX_SLOTS}"),
            });
        }
        let state = mimi.backend.state(slots)?;
        Ok(Self {
            mimi,
            slots,
            window,
            state,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The weights this stream runs on.
    pub fn mimi(&self) -> &Mimi {
        &self.mimi
    }

    /// Which keys a latent step may attend to.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Bytes of running state of all slots, encoder and decoder. Memory is taken as slots are
    /// used, so this is the upper bound.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// `pcm` is `[slots, frames * frame_size]`; gives codes `[slots, num_codebooks, frames]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as -1.
    pub fn encode(&mut self, pcm: &[f32], active: Option<&[bool]>) -> Result<Vec<i32>> {
        let active = self.mask(active)?;
        let samples = self.mimi.check_audio(pcm, self.slots, Some(&active))?;
        let size = self.mimi.config.frame_size();
        if !samples.is_multiple_of(size) {
            return Err(Error::Shape {
                what: "pcm",
                got: format!("[{}, 1, {samples}]", self.slots),
                wanted: format!("[{}, 1, n*{size}]", self.slots),
                remedy: "a stream takes whole frames: buffer the rest for the next call, or pad \
                         the end of the signal with zeros",
            });
        }
        let frames = samples / size;
        let books = self.mimi.num_codebooks;
        let on: Vec<usize> = (0..self.slots).filter(|&s| active[s]).collect();
        let mut out = vec![-1; self.slots * books * frames];
        self.in_pieces(frames, on.len(), |this, start, count| {
            let piece = cut(pcm, samples, start * size, count * size);
            let put = |slot: usize, book: usize, frame: usize, value: usize| {
                out[(on[slot] * books + book) * frames + start + frame] = value as i32;
            };
            let (backend, state) = (&this.mimi.backend, &mut this.state);
            let step = Step {
                frames: count,
                active: &active,
                window: this.window,
            };
            backend.encode(state, &piece, books, step, put)
        })?;
        Ok(out)
    }

    /// `codes` is `[slots, codebooks, frames]`; gives audio `[slots, frames * frame_size]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as 0.
    pub fn decode(
        &mut self,
        codes: &[i64],
        codebooks: usize,
        active: Option<&[bool]>,
    ) -> Result<Vec<f32>> {
        let active = self.mask(active)?;
        let frames = self
            .mimi
            .check_codes(codes, self.slots, codebooks, Some(&active))?;
        let size = self.mimi.config.frame_size();
        let on: Vec<usize> = (0..self.slots).filter(|&s| active[s]).collect();
        let mut out = vec![0.0; self.slots * frames * size];
        self.in_pieces(frames, on.len(), |this, start, count| {
            let piece = cut(codes, frames, start, count);
            let (backend, state) = (&this.mimi.backend, &mut this.state);
            let step = Step {
                frames: count,
                active: &active,
                window: this.window,
            };
            backend.decode(state, &piece, codebooks, step, |pcm| {
                for (pcm, slot) in pcm.chunks_exact(count * size).zip(&on) {
                    let at = (slot * frames + start) * size;
                    out[at..at + pcm.len()].copy_from_slice(pcm);
                }
            })
        })?;
        Ok(out)
    }

    /// Returns the given slots (all if `None`) to their initial state, encoder and decoder.
    pub fn reset(&mut self, slots: Option<&[usize]>) -> Result<()> {
        let all: Vec<usize> = (0..self.slots).collect();
        let chosen = slots.unwrap_or(&all);
        if let Some(&got) = chosen.iter().find(|&&s| s >= self.slots) {
            return Err(Error::SlotIndex {
                got,
                slots: self.slots,
            });
        }
        chosen.iter().try_for_each(|&s| self.state.reset(s))
    }

    /// One checked piece of all slots: codes `[slots, num_codebooks, frames]` into `out`.
    pub(super) fn encode_into(
        &mut self,
        pcm: &[f32],
        frames: usize,
        out: &mut Vec<i32>,
    ) -> Result<()> {
        let (books, all) = (self.mimi.num_codebooks, vec![true; self.slots]);
        out.resize(self.slots * books * frames, 0);
        let put = |slot: usize, book: usize, frame: usize, value: usize| {
            out[(slot * books + book) * frames + frame] = value as i32;
        };
        let (backend, state) = (&self.mimi.backend, &mut self.state);
        let step = Step {
            frames,
            active: &all,
            window: self.window,
        };
        backend.encode(state, pcm, books, step, put)
    }

    /// One checked piece of all slots: latents `[slots, dimension, frames]` into `out`.
    pub(super) fn latent_into(
        &mut self,
        pcm: &[f32],
        frames: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (width, all) = (self.mimi.config.seanet.dimension, vec![true; self.slots]);
        out.resize(self.slots * width * frames, 0.0);
        let (backend, state) = (&self.mimi.backend, &mut self.state);
        let step = Step {
            frames,
            active: &all,
            window: self.window,
        };
        backend.encode_latent(state, pcm, step, |latent| {
            for (row, column) in latent.chunks_exact(width).enumerate() {
                let (slot, frame) = (row / frames, row % frames);
                for (c, &v) in column.iter().enumerate() {
                    out[(slot * width + c) * frames + frame] = v;
                }
            }
        })
    }

    /// One flag per slot.
    fn mask(&self, active: Option<&[bool]>) -> Result<Vec<bool>> {
        match active {
            None => Ok(vec![true; self.slots]),
            Some(flags) if flags.len() == self.slots => Ok(flags.to_vec()),
            Some(flags) => Err(Error::Shape {
                what: "active",
                got: format!("[{}]", flags.len()),
                wanted: format!("[{}]", self.slots),
                remedy: "pass one flag per slot, or none at all for every slot",
            }),
        }
    }

    /// Cuts a call into pieces of bounded size: `work(self, first frame, frames)`.
    fn in_pieces(
        &mut self,
        frames: usize,
        active: usize,
        mut work: impl FnMut(&mut Self, usize, usize) -> Result<()>,
    ) -> Result<()> {
        if active == 0 {
            return Ok(());
        }
        let most = (FRAMES_AT_ONCE / active).max(1);
        for start in (0..frames).step_by(most) {
            work(self, start, most.min(frames - start))?;
        }
        Ok(())
    }
}

/// Elements `start..start + len` of every row of `row` elements.
fn cut<T: Copy>(x: &[T], row: usize, start: usize, len: usize) -> std::borrow::Cow<'_, [T]> {
    if len == row {
        return x.into();
    }
    x.chunks_exact(row)
        .flat_map(|r| &r[start..start + len])
        .copied()
        .collect()
}

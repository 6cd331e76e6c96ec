//! Streaming: N independent slots stepped together, each with its own state.

use std::borrow::Cow;

use super::backend::CodecState;
use super::checks;
use super::mimi::Mimi;
use super::window::Window;
use crate::error::{Error, Result};

/// Encoder and decoder state of `slots` conversations over one [`Mimi`].
///
/// A slot's results depend on its own inputs since its last reset, and on nothing else: not on
/// other slots, not on how its audio was cut into calls, not on the number of threads.
pub struct MimiStream {
    mimi: Mimi,
    slots: usize,
    window: Window,
    state: Box<dyn CodecState>,
}

/// Largest number of slots of a stream: a guard against sizes given in the wrong unit.
const MAX_SLOTS: usize = 1 << 16;

/// Slot-frames worked on at once; longer calls are cut, which changes nothing but memory.
const FRAMES_AT_ONCE: usize = 32;

impl Mimi {
    /// A stream of `slots` independent conversations.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a number of slots outside `1..=65536`; [`Error::Backend`] if
    /// the device has no room.
    pub fn stream(&self, slots: usize, window: Window) -> Result<MimiStream> {
        if slots == 0 || slots > MAX_SLOTS {
            return Err(Error::OptionValue {
                name: "slots",
                got: slots.to_string(),
                allowed: format!("1..={MAX_SLOTS}"),
            });
        }
        Ok(MimiStream {
            mimi: self.clone(),
            slots,
            window,
            state: self.backend.clone().state(slots, window)?,
        })
    }
}

impl MimiStream {
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

    /// The next frames of some slots: `slots` ascending and distinct, `pcm` `[rows, frames *
    /// frame_size]` with a row for each of them; gives codes `[rows, num_codebooks, frames]`.
    ///
    /// # Errors
    /// [`Error::SlotIndex`] and [`Error::OptionValue`] for wrong slots, [`Error::Empty`],
    /// [`Error::Shape`] and [`Error::Sample`] for wrong audio, all before anything changes (the
    /// row that an error names is the slot); [`Error::Backend`] if the device fails, after which
    /// these slots must be reset.
    pub fn encode_rows(&mut self, slots: &[usize], pcm: &[f32]) -> Result<Vec<i32>> {
        checks::slots(slots, self.slots)?;
        let samples = checks::audio(pcm, slots.len(), None).map_err(|e| name_slot(e, slots))?;
        self.encode_checked(slots, pcm, samples)
    }

    /// The audio of the next frames of some slots: `slots` ascending and distinct, `codes`
    /// `[rows, codebooks, frames]` with a row for each of them; gives `[rows, frames *
    /// frame_size]`.
    ///
    /// # Errors
    /// As for [`Self::encode_rows`], with [`Error::CodebookCount`] and [`Error::CodeRange`] for
    /// wrong codes.
    pub fn decode_rows(
        &mut self,
        slots: &[usize],
        codes: &[i32],
        codebooks: usize,
    ) -> Result<Vec<f32>> {
        checks::slots(slots, self.slots)?;
        let limits = &self.mimi.config.quantizer;
        let frames = checks::codes(limits, codes, slots.len(), codebooks, None)
            .map_err(|e| name_slot(e, slots))?;
        self.decode_checked(slots, codes, codebooks, frames)
    }

    /// `pcm` is `[slots, frames * frame_size]`; gives codes `[slots, num_codebooks, frames]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as -1.
    ///
    /// # Errors
    /// As for [`Self::encode_rows`].
    pub fn encode(&mut self, pcm: &[f32], active: Option<&[bool]>) -> Result<Vec<i32>> {
        let slots = self.chosen(active)?;
        let samples = checks::audio(pcm, self.slots, active)?;
        let rows = gather(pcm, samples, &slots);
        let codes = self.encode_checked(&slots, &rows, samples)?;
        let width = self.mimi.num_codebooks * (samples / self.mimi.config.frame_size());
        Ok(self.spread(codes, width, &slots, -1))
    }

    /// `codes` is `[slots, codebooks, frames]`; gives audio `[slots, frames * frame_size]`.
    /// Rows of slots with `active == false` are not read, keep their state, and come out as 0.
    ///
    /// # Errors
    /// As for [`Self::decode_rows`].
    pub fn decode(
        &mut self,
        codes: &[i32],
        codebooks: usize,
        active: Option<&[bool]>,
    ) -> Result<Vec<f32>> {
        let slots = self.chosen(active)?;
        let limits = &self.mimi.config.quantizer;
        let frames = checks::codes(limits, codes, self.slots, codebooks, active)?;
        let rows = gather(codes, codebooks * frames, &slots);
        let pcm = self.decode_checked(&slots, &rows, codebooks, frames)?;
        let width = frames * self.mimi.config.frame_size();
        Ok(self.spread(pcm, width, &slots, 0.0))
    }

    /// Returns the given slots (all if `None`) to their initial state, encoder and decoder.
    ///
    /// # Errors
    /// [`Error::SlotIndex`] for a slot that does not exist; [`Error::Backend`].
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
    pub(super) fn codes_of_all(
        &mut self,
        pcm: &[f32],
        frames: usize,
        out: &mut Vec<i32>,
    ) -> Result<()> {
        let (books, all) = (self.mimi.num_codebooks, self.chosen(None)?);
        out.resize(self.slots * books * frames, 0);
        self.state.encode(&all, pcm, books, out)
    }

    /// One checked piece of all slots: latents `[slots, dimension, frames]` into `out`.
    pub(super) fn latents_of_all(
        &mut self,
        pcm: &[f32],
        frames: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (width, all) = (self.mimi.config.seanet.dimension, self.chosen(None)?);
        let mut latents = vec![0.0; self.slots * frames * width];
        self.state.encode_latent(&all, pcm, &mut latents)?;
        out.resize(latents.len(), 0.0);
        for (row, column) in latents.chunks_exact(width).enumerate() {
            let (slot, frame) = (row / frames, row % frames);
            for (c, &v) in column.iter().enumerate() {
                out[(slot * width + c) * frames + frame] = v;
            }
        }
        Ok(())
    }

    /// Codes of checked rows of `samples` samples, which must be whole frames.
    fn encode_checked(&mut self, slots: &[usize], pcm: &[f32], samples: usize) -> Result<Vec<i32>> {
        let (size, books) = (self.mimi.config.frame_size(), self.mimi.num_codebooks);
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
        let mut out = vec![0; slots.len() * books * frames];
        for (start, count) in pieces(frames, slots.len()) {
            let piece = columns(pcm, samples, start * size, count * size);
            if count == frames {
                self.state.encode(slots, &piece, books, &mut out)?;
            } else {
                let mut codes = vec![0; slots.len() * books * count];
                self.state.encode(slots, &piece, books, &mut codes)?;
                put_columns(&codes, count, &mut out, frames, start);
            }
        }
        Ok(out)
    }

    /// Audio of checked rows of codes.
    fn decode_checked(
        &mut self,
        slots: &[usize],
        codes: &[i32],
        codebooks: usize,
        frames: usize,
    ) -> Result<Vec<f32>> {
        let size = self.mimi.config.frame_size();
        let mut out = vec![0.0; slots.len() * frames * size];
        for (start, count) in pieces(frames, slots.len()) {
            let piece = columns(codes, frames, start, count);
            if count == frames {
                self.state.decode(slots, &piece, codebooks, &mut out)?;
            } else {
                let mut pcm = vec![0.0; slots.len() * count * size];
                self.state.decode(slots, &piece, codebooks, &mut pcm)?;
                put_columns(&pcm, count * size, &mut out, frames * size, start * size);
            }
        }
        Ok(out)
    }

    /// The slots whose flag is set.
    fn chosen(&self, active: Option<&[bool]>) -> Result<Vec<usize>> {
        match active {
            None => Ok((0..self.slots).collect()),
            Some(flags) if flags.len() == self.slots => {
                Ok((0..self.slots).filter(|&slot| flags[slot]).collect())
            }
            Some(flags) => Err(Error::Shape {
                what: "active",
                got: format!("[{}]", flags.len()),
                wanted: format!("[{}]", self.slots),
                remedy: "pass one flag per slot, or none at all for every slot",
            }),
        }
    }

    /// Rows of `width` elements of the chosen slots, put where they belong among all slots;
    /// `nothing` in the rows of the others.
    fn spread<T: Copy>(&self, rows: Vec<T>, width: usize, slots: &[usize], nothing: T) -> Vec<T> {
        if slots.len() == self.slots {
            return rows;
        }
        let mut out = vec![nothing; self.slots * width];
        for (row, &slot) in rows.chunks_exact(width).zip(slots) {
            out[slot * width..][..width].copy_from_slice(row);
        }
        out
    }
}

/// The error of a row, under the number of its slot.
fn name_slot(mut error: Error, slots: &[usize]) -> Error {
    if let Error::Sample { row, .. } | Error::CodeRange { row, .. } = &mut error {
        *row = slots[*row];
    }
    error
}

/// Cuts a call of `frames` frames of `rows` rows into pieces of bounded size: (first frame,
/// frames) of each.
fn pieces(frames: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = (FRAMES_AT_ONCE / rows.max(1)).max(1);
    let frames = if rows == 0 { 0 } else { frames };
    (0..frames)
        .step_by(most)
        .map(move |start| (start, most.min(frames - start)))
}

/// The rows, of `width` elements each, of the chosen slots.
fn gather<'a, T: Copy>(all: &'a [T], width: usize, slots: &[usize]) -> Cow<'a, [T]> {
    if slots.len() * width == all.len() {
        return all.into();
    }
    let rows = slots.iter().flat_map(|slot| &all[slot * width..][..width]);
    rows.copied().collect()
}

/// Elements `start..start + len` of every row of `row` elements.
fn columns<T: Copy>(x: &[T], row: usize, start: usize, len: usize) -> Cow<'_, [T]> {
    if len == row {
        return x.into();
    }
    let rows = x.chunks_exact(row).flat_map(|r| &r[start..start + len]);
    rows.copied().collect()
}

/// Writes rows of `len` elements to `start..start + len` of every row of `row` elements.
fn put_columns<T: Copy>(from: &[T], len: usize, to: &mut [T], row: usize, start: usize) {
    for (from, to) in from.chunks_exact(len).zip(to.chunks_exact_mut(row)) {
        to[start..start + len].copy_from_slice(from);
    }
}

//! Whole signals: a stream of its own for each group of rows, fed in pieces.

use std::ops::ControlFlow;

use super::checks;
use super::mimi::Mimi;
use super::stream::MimiStream;
use super::window::Window;
use crate::error::{Error, Result};

/// Called between pieces of a long call with (done, total) frames; `Break` stops the call.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

impl Mimi {
    /// Codes of whole signals: `pcm` is `[batch, samples]`, the result `[batch, num_codebooks,
    /// ceil(samples / frame_size)]`, row-major; the tail is padded with zeros to a frame.
    pub fn encode(&self, pcm: &[f32], batch: usize, progress: Progress<'_>) -> Result<Vec<i32>> {
        let books = self.num_codebooks;
        self.over_audio(pcm, batch, books, progress, |stream, piece, frames, out| {
            stream.codes_of_all(piece, frames, out)
        })
    }

    /// The latent before quantisation, `[batch, dimension, frames]`, row-major.
    pub fn encode_to_latent(
        &self,
        pcm: &[f32],
        batch: usize,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        let width = self.config.seanet.dimension;
        self.over_audio(pcm, batch, width, progress, |stream, piece, frames, out| {
            stream.latents_of_all(piece, frames, out)
        })
    }

    /// Audio of whole code sequences: `codes` is `[batch, codebooks, frames]` with any number of
    /// codebooks the file holds, the result `[batch, frames * frame_size]`.
    pub fn decode(
        &self,
        codes: &[i32],
        batch: usize,
        codebooks: usize,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        let frames = checks::codes(&self.config.quantizer, codes, batch, codebooks, None)?;
        let size = self.config.frame_size();
        let mut out = vec![0.0; batch * frames * size];
        let (mut piece, mut done) = (Vec::new(), 0);
        for first in (0..batch).step_by(ROWS_AT_ONCE) {
            let rows = ROWS_AT_ONCE.min(batch - first);
            let mut stream = self.stream(rows, Window::Whole)?;
            let chunk = pieces(rows);
            for start in (0..frames).step_by(chunk) {
                let count = chunk.min(frames - start);
                piece.clear();
                for row in 0..rows * codebooks {
                    let at = (first * codebooks + row) * frames + start;
                    piece.extend_from_slice(&codes[at..at + count]);
                }
                let pcm = stream.decode(&piece, codebooks, None)?;
                for (row, pcm) in pcm.chunks_exact(count * size).enumerate() {
                    let at = ((first + row) * frames + start) * size;
                    out[at..at + pcm.len()].copy_from_slice(pcm);
                }
                done += rows * count;
                if progress(done, batch * frames).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(out)
    }

    /// Runs `step` over pieces of the audio and puts its columns, `[rows, width, frames of the
    /// piece]`, where they belong in `[batch, width, frames]`.
    fn over_audio<T: Copy + Default>(
        &self,
        pcm: &[f32],
        batch: usize,
        width: usize,
        progress: Progress<'_>,
        step: impl Fn(&mut MimiStream, &[f32], usize, &mut Vec<T>) -> Result<()>,
    ) -> Result<Vec<T>> {
        let size = self.config.frame_size();
        let samples = checks::audio(pcm, batch, None)?;
        let frames = samples.div_ceil(size);
        let mut out = vec![T::default(); batch * width * frames];
        let (mut piece, mut columns, mut done) = (Vec::new(), Vec::new(), 0);
        for first in (0..batch).step_by(ROWS_AT_ONCE) {
            let rows = ROWS_AT_ONCE.min(batch - first);
            let mut stream = self.stream(rows, Window::Whole)?;
            let chunk = pieces(rows);
            for start in (0..frames).step_by(chunk) {
                let count = chunk.min(frames - start);
                piece.clear();
                for row in first..first + rows {
                    let from = row * samples + start * size;
                    let to = (from + count * size).min((row + 1) * samples);
                    piece.extend_from_slice(&pcm[from..to]);
                    piece.resize((row + 1 - first) * count * size, 0.0);
                }
                step(&mut stream, &piece, count, &mut columns)?;
                for (i, part) in columns.chunks_exact(count).enumerate() {
                    let at = (first * width + i) * frames + start;
                    out[at..at + count].copy_from_slice(part);
                }
                done += rows * count;
                if progress(done, batch * frames).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(out)
    }
}

/// Rows of a whole-signal batch that are worked on together.
const ROWS_AT_ONCE: usize = 8;

/// Frames of a row worked on together: enough rows for the matrix kernel, few enough for the
/// cache. Results do not depend on it.
fn pieces(rows: usize) -> usize {
    (16 / rows).max(1)
}

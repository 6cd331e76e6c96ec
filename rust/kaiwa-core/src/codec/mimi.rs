//! The codec as callers see it: weights, whole-signal calls, and streams over them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::backend::Backend;
use super::stream::{MimiStream, Window};
use super::{MimiConfig, MimiTensors};
use crate::device::Device;
use crate::error::{Error, Result};

/// How the network's weights are held. The quantiser is f32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Exact.
    F32,
    /// Half the memory traffic; arithmetic stays f32.
    Bf16,
}

impl WeightType {
    /// Parses `float32` or `bfloat16`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "float32" => Ok(Self::F32),
            "bfloat16" => Ok(Self::Bf16),
            _ => Err(Error::OptionValue {
                name: "dtype",
                got: format!("{text:?}"),
                allowed: "\"float32\" or \"bfloat16\"".into(),
            }),
        }
    }

    /// The name [`Self::parse`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Mimi's weights, shared and immutable. Cheap to clone; running state lives in [`MimiStream`].
#[derive(Clone)]
pub struct Mimi {
    pub(super) config: Arc<MimiConfig>,
    pub(super) num_codebooks: usize,
    pub(super) device: Device,
    pub(super) dtype: WeightType,
    pub(super) backend: Backend,
}

/// Called between pieces of a long call with (done, total) frames; `Break` stops the call.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

impl Mimi {
    /// Loads a safetensors file. `num_codebooks` (1..=`config.quantizer.n_q`) is what `encode`
    /// gives out; decoding takes any number up to the file's.
    pub fn load(
        path: &Path,
        config: MimiConfig,
        num_codebooks: usize,
        device: Device,
        dtype: WeightType,
    ) -> Result<Self> {
        let max = config.quantizer.n_q;
        if num_codebooks == 0 || num_codebooks > max {
            return Err(Error::CodebookCount {
                got: num_codebooks,
                max,
            });
        }
        let mut tensors = MimiTensors::open(path, &config)?;
        let backend = Backend::load(&mut tensors, &config, device, dtype)?;
        tensors.finish()?;
        Ok(Self {
            config: Arc::new(config),
            num_codebooks,
            device,
            dtype,
            backend,
        })
    }

    /// The configuration the weights were read with.
    pub fn config(&self) -> &MimiConfig {
        &self.config
    }

    /// Codebooks given out by `encode`.
    pub fn num_codebooks(&self) -> usize {
        self.num_codebooks
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How the network's weights are held.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// A stream of `slots` independent conversations.
    pub fn stream(&self, slots: usize, window: Window) -> Result<MimiStream> {
        MimiStream::new(self.clone(), slots, window)
    }

    /// Codes of whole signals: `pcm` is `[batch, samples]`, the result `[batch, num_codebooks,
    /// ceil(samples / frame_size)]`, row-major; the tail is padded with zeros to a frame.
    pub fn encode(&self, pcm: &[f32], batch: usize, progress: Progress<'_>) -> Result<Vec<i32>> {
        let books = self.num_codebooks;
        self.over_audio(pcm, batch, books, progress, |stream, piece, frames, out| {
            stream.encode_into(piece, frames, out)
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
            stream.latent_into(piece, frames, out)
        })
    }

    /// Audio of whole code sequences: `codes` is `[batch, codebooks, frames]` with any number of
    /// codebooks the file holds, the result `[batch, frames * frame_size]`.
    pub fn decode(
        &self,
        codes: &[i64],
        batch: usize,
        codebooks: usize,
        progress: Progress<'_>,
    ) -> Result<Vec<f32>> {
        let frames = self.check_codes(codes, batch, codebooks, None)?;
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
        let samples = self.check_audio(pcm, batch, None)?;
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

    /// Samples per row, after checking shape and values of the rows that count.
    pub(super) fn check_audio(
        &self,
        pcm: &[f32],
        rows: usize,
        active: Option<&[bool]>,
    ) -> Result<usize> {
        if rows == 0 || pcm.is_empty() {
            return Err(Error::Empty {
                what: "pcm",
                at_least: "one sample in at least one row",
            });
        }
        if !pcm.len().is_multiple_of(rows) {
            return Err(Error::Shape {
                what: "pcm",
                got: format!("{} samples for {rows} rows", pcm.len()),
                wanted: "[batch, 1, samples]".into(),
                remedy: "give every row the same length",
            });
        }
        let samples = pcm.len() / rows;
        for (row, values) in pcm.chunks_exact(samples).enumerate() {
            if active.is_some_and(|a| !a[row]) {
                continue;
            }
            crate::audio::samples::check("pcm", row, values)?;
        }
        Ok(samples)
    }

    /// Frames per row, after checking shape and values of the rows that count.
    pub(super) fn check_codes(
        &self,
        codes: &[i64],
        rows: usize,
        codebooks: usize,
        active: Option<&[bool]>,
    ) -> Result<usize> {
        let max = self.config.quantizer.n_q;
        if codebooks == 0 || codebooks > max {
            return Err(Error::CodebookCount {
                got: codebooks,
                max,
            });
        }
        if rows == 0 || codes.is_empty() {
            return Err(Error::Empty {
                what: "codes",
                at_least: "one frame in at least one row",
            });
        }
        if !codes.len().is_multiple_of(rows * codebooks) {
            return Err(Error::Shape {
                what: "codes",
                got: format!(
                    "{} codes for {rows} rows of {codebooks} codebooks",
                    codes.len()
                ),
                wanted: "[batch, codebooks, frames]".into(),
                remedy: "give every codebook the same number of frames",
            });
        }
        let frames = codes.len() / (rows * codebooks);
        let cardinality = self.config.quantizer.bins;
        for (i, &value) in codes.iter().enumerate() {
            let row = i / (codebooks * frames);
            let counts = active.is_none_or(|a| a[row]);
            if counts && !usize::try_from(value).is_ok_and(|v| v < cardinality) {
                let (codebook, frame) = (i / frames % codebooks, i % frames);
                return Err(Error::CodeRange {
                    row,
                    codebook,
                    frame,
                    value,
                    cardinality,
                });
            }
        }
        Ok(frames)
    }
}

/// Rows of a whole-signal batch that are worked on together.
const ROWS_AT_ONCE: usize = 8;

/// Frames of a row worked on together: enough rows for the matrix kernel, few enough for the
/// cache. Results do not depend on it.
fn pieces(rows: usize) -> usize {
    (16 / rows).max(1)
}

//! The two ways to run the codec behind one set of calls: own kernels on the processor, Candle's
//! operators elsewhere.

pub mod candle;
mod cpu;

use std::sync::Arc;

use self::candle::{DeviceMimi, DeviceState};
use self::cpu::NativeMimi;
pub(super) use self::cpu::Step;
use super::{MimiConfig, MimiTensors, WeightType};
use crate::device::Device;
use crate::error::{Error, Result};

/// Weights on a device.
#[derive(Clone)]
pub(super) enum Backend {
    Native(Arc<NativeMimi>),
    Device(Arc<DeviceMimi>),
}

/// Running state and scratch of a stream on the same device.
pub(super) enum State {
    Native {
        encoder: cpu::DirectionState,
        decoder: cpu::DirectionState,
        work: Box<cpu::Work>,
    },
    Device {
        encoder: Box<DeviceState>,
        decoder: Box<DeviceState>,
    },
}

impl Backend {
    pub(super) fn load(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        device: Device,
        dtype: WeightType,
    ) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Self::Native(Arc::new(NativeMimi::load(tensors, config, dtype)?)),
            _ => {
                let device = device.open()?;
                Self::Device(Arc::new(DeviceMimi::load(tensors, config, dtype, device)?))
            }
        })
    }

    /// Fresh state of `slots` slots.
    pub(super) fn state(&self, slots: usize) -> Result<State> {
        Ok(match self {
            Self::Native(m) => State::Native {
                encoder: m.encoder_state(slots),
                decoder: m.decoder_state(slots),
                work: Box::default(),
            },
            Self::Device(m) => State::Device {
                encoder: Box::new(m.encoder_state(slots)?),
                decoder: Box::new(m.decoder_state(slots)?),
            },
        })
    }

    /// Latents of the active slots, `[active, frames, dimension]`, given to `use_it`.
    pub(super) fn encode_latent<R: Send>(
        &self,
        state: &mut State,
        pcm: &[f32],
        step: Step<'_>,
        use_it: impl FnOnce(&[f32]) -> R + Send,
    ) -> Result<R> {
        match (self, state) {
            (Self::Native(m), State::Native { encoder, work, .. }) => {
                Ok(use_it(m.encode_latent(encoder, work, pcm, step)))
            }
            (Self::Device(m), State::Device { encoder, .. }) => {
                let Step {
                    frames,
                    active,
                    window,
                } = step;
                let all = m.encode_latent(encoder, pcm, frames, active, window)?;
                Ok(use_it(&rows_of(&all, active)))
            }
            _ => Err(mixed()),
        }
    }

    /// Codes of the active slots: `code(active index, codebook, frame, value)`.
    pub(super) fn encode(
        &self,
        state: &mut State,
        pcm: &[f32],
        codebooks: usize,
        step: Step<'_>,
        mut code: impl FnMut(usize, usize, usize, usize) + Send,
    ) -> Result<()> {
        let rows = step.frames * step.active.iter().filter(|&&on| on).count();
        match (self, state) {
            (Self::Native(m), State::Native { encoder, work, .. }) => {
                m.encode_latent(encoder, work, pcm, step);
                m.quantize(work, codebooks, rows, |row, book, value| {
                    code(row / step.frames, book, row % step.frames, value);
                });
                Ok(())
            }
            (Self::Device(m), State::Device { encoder, .. }) => {
                let Step {
                    frames,
                    active,
                    window,
                } = step;
                let all = m.encode_latent(encoder, pcm, frames, active, window)?;
                let codes = m.quantize(&rows_of(&all, active), rows, codebooks)?;
                for (i, &value) in codes.iter().enumerate() {
                    let (row, book) = (i / codebooks, i % codebooks);
                    code(row / frames, book, row % frames, value as usize);
                }
                Ok(())
            }
            _ => Err(mixed()),
        }
    }

    /// Audio of the active slots, `[active, frames * frame_size]`, given to `use_it`. `codes` is
    /// `[slots, codebooks, frames]`, checked.
    pub(super) fn decode<R: Send>(
        &self,
        state: &mut State,
        codes: &[i64],
        codebooks: usize,
        step: Step<'_>,
        use_it: impl FnOnce(&[f32]) -> R + Send,
    ) -> Result<R> {
        match (self, state) {
            (Self::Native(m), State::Native { decoder, work, .. }) => {
                let code = |slot: usize, book: usize, frame: usize| {
                    codes[(slot * codebooks + book) * step.frames + frame] as usize
                };
                Ok(use_it(m.decode(decoder, work, code, codebooks, step)))
            }
            (Self::Device(m), State::Device { decoder, .. }) => {
                let Step {
                    frames,
                    active,
                    window,
                } = step;
                let codes: Vec<u32> = codes.iter().map(|&c| c as u32).collect();
                let all = m.decode(decoder, &codes, codebooks, frames, active, window)?;
                Ok(use_it(&rows_of(&all, active)))
            }
            _ => Err(mixed()),
        }
    }
}

/// The rows of the active slots, one after the other.
fn rows_of(all: &[f32], active: &[bool]) -> Vec<f32> {
    let rows = all.chunks_exact((all.len() / active.len().max(1)).max(1));
    rows.zip(active)
        .filter(|(_, on)| **on)
        .flat_map(|(row, _)| row)
        .copied()
        .collect()
}

/// A stream only ever meets the backend that made its state.
fn mixed() -> Error {
    Error::DeviceUnavailable {
        device: "of this stream".into(),
        reason: "its state belongs to another device; make a new stream".into(),
    }
}

impl State {
    /// Bytes of running state, both directions.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Native {
                encoder, decoder, ..
            } => encoder.bytes() + decoder.bytes(),
            Self::Device { encoder, decoder } => encoder.bytes() + decoder.bytes(),
        }
    }

    /// Returns a slot to its beginning, both directions.
    pub(super) fn reset(&mut self, slot: usize) -> Result<()> {
        match self {
            Self::Native {
                encoder, decoder, ..
            } => {
                encoder.reset(slot);
                decoder.reset(slot);
                Ok(())
            }
            Self::Device { encoder, decoder } => {
                encoder.reset(slot)?;
                decoder.reset(slot)
            }
        }
    }
}

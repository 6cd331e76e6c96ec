//! The two ways to run the codec behind one set of calls: own kernels on the processor, Candle's
//! operators elsewhere.

use std::sync::Arc;

use super::native::{self, NativeMimi, Step};
use super::{Device, MimiConfig, MimiTensors, WeightType};
use crate::error::Result;

/// Weights on a device.
#[derive(Clone)]
pub(super) enum Backend {
    Native(Arc<NativeMimi>),
}

/// Running state and scratch of a stream on the same device.
pub(super) enum State {
    Native {
        encoder: native::DirectionState,
        decoder: native::DirectionState,
        work: Box<native::Work>,
    },
}

impl Backend {
    pub(super) fn load(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        _device: Device,
        dtype: WeightType,
    ) -> Result<Self> {
        Ok(Self::Native(Arc::new(NativeMimi::load(
            tensors, config, dtype,
        )?)))
    }

    /// Bytes of weights in memory.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Native(m) => m.weight_bytes(),
        }
    }

    pub(super) fn state(&self, slots: usize) -> Result<State> {
        match self {
            Self::Native(m) => Ok(State::Native {
                encoder: m.encoder_state(slots),
                decoder: m.decoder_state(slots),
                work: Box::default(),
            }),
        }
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
            (Self::Native(m), State::Native { encoder, work, .. }) => Ok(native::in_pool(|| {
                use_it(m.encode_latent(encoder, work, pcm, step))
            })),
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
        match (self, state) {
            (Self::Native(m), State::Native { encoder, work, .. }) => {
                native::in_pool(|| {
                    let (frames, count) =
                        (step.frames, step.active.iter().filter(|&&on| on).count());
                    m.encode_latent(encoder, work, pcm, step);
                    m.quantize(work, codebooks, count * frames, |row, book, value| {
                        code(row / frames, book, row % frames, value);
                    });
                });
                Ok(())
            }
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
            (Self::Native(m), State::Native { decoder, work, .. }) => Ok(native::in_pool(|| {
                let code = |slot: usize, book: usize, frame: usize| {
                    codes[(slot * codebooks + book) * step.frames + frame] as usize
                };
                use_it(m.decode(decoder, work, code, codebooks, step))
            })),
        }
    }
}

impl State {
    /// Bytes of running state, both directions.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Native {
                encoder, decoder, ..
            } => encoder.bytes() + decoder.bytes(),
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
        }
    }
}

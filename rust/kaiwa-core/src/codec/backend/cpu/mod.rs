//! Mimi on the processor with this crate's own kernels.
//!
//! Activations are time-major, `[rows, steps, channels]`. What a slot carries from step to step is
//! in its [`SlotState`].

mod conv;
mod quantizer;
mod seanet;
mod state;
mod transformer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use conv::{Conv, ConvShape, Padded, Upsample};
use quantizer::Quantizer;
use seanet::{SeanetDecoder, SeanetEncoder};
use state::{DirectionState, SlotState};
use transformer::{Transformer, TransformerWork};

use super::{CodecBackend, CodecState};
use crate::codec::config::MimiConfig;
use crate::codec::names::MimiTensors;
use crate::codec::weight_type::WeightType;
use crate::codec::window::Window;
use crate::cpu::{Arena, Isa, Out, Packer, Rows, WeightBits};
use crate::error::Result;

/// What every layer needs to load itself.
pub(super) struct Loader<'a> {
    pub tensors: &'a mut MimiTensors,
    pub packer: Packer,
    /// Floats of convolution history handed out so far in the current direction.
    pub history: usize,
}

/// The codec's weights, packed for the CPU kernels; shared by all streams.
pub(super) struct CpuMimi {
    isa: Isa,
    frame_size: usize,
    steps_per_frame: usize,
    dimension: usize,
    encoder: SeanetEncoder,
    encoder_transformer: Transformer,
    downsample: Conv,
    upsample: Upsample,
    decoder_transformer: Transformer,
    decoder: SeanetDecoder,
    quantizer: Quantizer,
    encoder_history: usize,
    decoder_history: usize,
}

/// Running state of a stream's slots.
struct CpuState {
    mimi: Arc<CpuMimi>,
    window: Window,
    encoder: DirectionState,
    decoder: DirectionState,
    work: Work,
}

/// Scratch of a step; grows to the largest step seen and is then reused.
#[derive(Default)]
struct Work {
    seanet: seanet::SeanetWork,
    transformer: TransformerWork,
    steps: Padded,
    x: Vec<f32>,
    latent: Vec<f32>,
    quantizer: quantizer::QuantizerWork,
}

impl CpuMimi {
    /// Reads and packs every weight.
    pub(super) fn load(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        dtype: WeightType,
    ) -> Result<Self> {
        Self::load_for(Isa::detect(), tensors, config, dtype)
    }

    /// [`Self::load`] for a given instruction set, which must be one of [`Isa::available`].
    pub(super) fn load_for(
        isa: Isa,
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        dtype: WeightType,
    ) -> Result<Self> {
        let bits = match dtype {
            WeightType::F32 => WeightBits::F32,
            WeightType::Bf16 => WeightBits::Bf16,
        };
        let mut loader = Loader {
            tensors,
            packer: Packer {
                arena: Arena::default(),
                isa,
                bits,
            },
            history: 0,
        };
        let (dim, stride) = (config.seanet.dimension, config.steps_per_frame());
        let encoder = SeanetEncoder::load(&mut loader, &config.seanet)?;
        let encoder_transformer = Transformer::load(&mut loader, "encoder_transformer", config)?;
        let downsample = Conv::load(
            &mut loader,
            "downsample.conv.conv.conv",
            ConvShape {
                inputs: dim,
                outputs: dim,
                kernel: 2 * stride,
                stride,
                dilation: 1,
                bias: false,
                replicate: true,
            },
        )?;
        let encoder_history = std::mem::take(&mut loader.history);
        let upsample = Upsample::load(&mut loader, "upsample.convtr.convtr.convtr", dim, stride)?;
        let decoder_transformer = Transformer::load(&mut loader, "decoder_transformer", config)?;
        let decoder = SeanetDecoder::load(&mut loader, &config.seanet)?;
        let decoder_history = loader.history;
        // The search decides codes, so it stays exact whatever the network's weights are.
        loader.packer.bits = WeightBits::F32;
        let quantizer = Quantizer::load(&mut loader, config)?;
        Ok(Self {
            isa,
            frame_size: config.frame_size(),
            steps_per_frame: stride,
            dimension: dim,
            encoder,
            encoder_transformer,
            downsample,
            upsample,
            decoder_transformer,
            decoder,
            quantizer,
            encoder_history,
            decoder_history,
        })
    }

    /// Latent steps whose keys are written before any of them attends.
    fn group(&self, window: Window) -> usize {
        match window {
            Window::Whole => 1,
            Window::Streaming => self.steps_per_frame,
        }
    }
}

impl CodecBackend for CpuMimi {
    fn state(self: Arc<Self>, slots: usize, window: Window) -> Result<Box<dyn CodecState>> {
        Ok(Box::new(CpuState::new(self, slots, window)))
    }
}

impl CpuState {
    fn new(mimi: Arc<CpuMimi>, slots: usize, window: Window) -> Self {
        let direction = |history, transformer: &Transformer| {
            DirectionState::new(slots, history, transformer.state_len())
        };
        Self {
            window,
            encoder: direction(mimi.encoder_history, &mimi.encoder_transformer),
            decoder: direction(mimi.decoder_history, &mimi.decoder_transformer),
            work: Work::default(),
            mimi,
        }
    }

    /// Latents `[rows, frames, dimension]` of `pcm` into `work.latent`; gives their number.
    fn latents(&mut self, slots: &[usize], pcm: &[f32]) -> usize {
        let (mimi, work) = (&*self.mimi, &mut self.work);
        let mut rows = self.encoder.rows(slots);
        let (count, d) = (rows.len(), mimi.dimension);
        let samples = pcm.len() / count.max(1);
        let frames = samples / mimi.frame_size;
        let steps = frames * mimi.steps_per_frame;
        mimi.encoder
            .run(&mut work.seanet, &mut rows, pcm, samples, &mut work.x);
        mimi.encoder_transformer.run(
            mimi.isa,
            &mut work.transformer,
            &mut rows,
            &mut work.x,
            steps,
            mimi.group(self.window),
        );
        work.steps.shape(count, mimi.downsample.pad(), steps, d);
        work.steps.fill(&work.x);
        mimi.downsample.history(&mut work.steps, &mut rows);
        work.latent.resize(count * frames * d, 0.0);
        let out = Out::raw(&mut work.latent, Rows::packed(frames, d));
        mimi.downsample.run(&work.steps, count, out);
        SlotState::advance(&mut rows, steps);
        count * frames
    }
}

impl CodecState for CpuState {
    fn encode(
        &mut self,
        slots: &[usize],
        pcm: &[f32],
        codebooks: usize,
        codes: &mut [i32],
    ) -> Result<()> {
        let latents = self.latents(slots, pcm);
        let frames = latents / slots.len().max(1);
        let Work {
            quantizer, latent, ..
        } = &mut self.work;
        self.mimi.quantizer.encode(
            self.mimi.isa,
            quantizer,
            &latent[..latents * self.mimi.dimension],
            codebooks,
            |at, book, value| {
                codes[(at / frames * codebooks + book) * frames + at % frames] = value as i32;
            },
        );
        Ok(())
    }

    fn encode_latent(&mut self, slots: &[usize], pcm: &[f32], latents: &mut [f32]) -> Result<()> {
        let count = self.latents(slots, pcm);
        latents.copy_from_slice(&self.work.latent[..count * self.mimi.dimension]);
        Ok(())
    }

    fn decode(
        &mut self,
        slots: &[usize],
        codes: &[i32],
        codebooks: usize,
        pcm: &mut [f32],
    ) -> Result<()> {
        let (mimi, work) = (&*self.mimi, &mut self.work);
        let mut rows = self.decoder.rows(slots);
        let (count, d) = (rows.len(), mimi.dimension);
        let frames = codes.len() / (count * codebooks).max(1);
        let steps = frames * mimi.steps_per_frame;
        mimi.quantizer.decode(
            &mut work.quantizer,
            |at, book| codes[(at / frames * codebooks + book) * frames + at % frames] as usize,
            codebooks,
            count * frames,
            &mut work.latent,
        );
        work.x.resize(count * steps * d, 0.0);
        mimi.upsample
            .run(&mut rows, &work.latent, frames, &mut work.x);
        mimi.decoder_transformer.run(
            mimi.isa,
            &mut work.transformer,
            &mut rows,
            &mut work.x,
            steps,
            mimi.group(self.window),
        );
        mimi.decoder
            .run(&mut work.seanet, &mut rows, &mut work.x, steps);
        SlotState::advance(&mut rows, steps);
        pcm.copy_from_slice(&work.x[..count * frames * mimi.frame_size]);
        Ok(())
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        self.encoder.reset(slot);
        self.decoder.reset(slot);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.encoder.bytes() + self.decoder.bytes()
    }
}

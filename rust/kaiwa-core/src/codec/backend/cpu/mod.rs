//! Mimi on the processor with this crate's own kernels.
//!
//! Activations are time-major, `[slots, steps, channels]`; only the active slots of a step are in
//! them, one after the other. What a slot carries from step to step is in its [`SlotState`].

mod conv;
mod quantizer;
mod seanet;
mod state;
mod transformer;

#[cfg(test)]
mod tests;

pub(crate) use state::DirectionState;

use conv::{Conv, ConvShape, Padded, Upsample};
use quantizer::Quantizer;
use seanet::{SeanetDecoder, SeanetEncoder};
use state::SlotState;
use transformer::{Transformer, TransformerWork};

use crate::codec::{MimiConfig, MimiTensors, WeightType, Window};
use crate::cpu::{Arena, Isa, Out, Packer, Rows, WeightBits};
use crate::error::Result;

/// What every layer needs to load itself.
pub(super) struct Loader<'a> {
    pub tensors: &'a mut MimiTensors,
    pub packer: Packer,
    /// Floats of convolution history handed out so far in the current direction.
    pub history: usize,
}

/// One call on the active slots of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    /// Frames of each slot.
    pub frames: usize,
    /// One flag a slot.
    pub active: &'a [bool],
    pub window: Window,
}

/// The codec's weights, packed for the CPU kernels; shared by all streams.
pub(crate) struct NativeMimi {
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

/// Scratch of a step; grows to the largest step seen and is then reused.
#[derive(Default)]
pub(crate) struct Work {
    seanet: seanet::SeanetWork,
    transformer: TransformerWork,
    steps: Padded,
    x: Vec<f32>,
    latent: Vec<f32>,
    quantizer: quantizer::QuantizerWork,
}

impl NativeMimi {
    /// Reads and packs every weight.
    pub(crate) fn load(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        dtype: WeightType,
    ) -> Result<Self> {
        Self::load_for(Isa::detect(), tensors, config, dtype)
    }

    /// [`Self::load`] for a given instruction set, which must be one of [`Isa::available`].
    pub(crate) fn load_for(
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

    /// Fresh encoder state of `slots` slots.
    pub(crate) fn encoder_state(&self, slots: usize) -> DirectionState {
        DirectionState::new(
            slots,
            self.encoder_history,
            self.encoder_transformer.state_len(),
        )
    }

    /// Fresh decoder state of `slots` slots.
    pub(crate) fn decoder_state(&self, slots: usize) -> DirectionState {
        DirectionState::new(
            slots,
            self.decoder_history,
            self.decoder_transformer.state_len(),
        )
    }

    /// Latent steps whose keys are written before any of them attends.
    fn group(&self, window: Window) -> usize {
        match window {
            Window::Whole => 1,
            Window::Streaming => self.steps_per_frame,
        }
    }

    /// One piece of audio of the active slots: `pcm` is `[slots, frames * frame_size]`, the
    /// result the latents before quantisation, `[active, frames, dimension]`, in `work`.
    pub(crate) fn encode_latent<'w>(
        &self,
        state: &mut DirectionState,
        work: &'w mut Work,
        pcm: &[f32],
        Step {
            frames,
            active,
            window,
        }: Step<'_>,
    ) -> &'w [f32] {
        let mut slots = state.active(active);
        let (count, samples) = (slots.len(), frames * self.frame_size);
        let steps = frames * self.steps_per_frame;
        let rows = pcm
            .chunks_exact(samples)
            .zip(active)
            .filter_map(|(row, &on)| on.then_some(row));
        self.encoder
            .run(&mut work.seanet, &mut slots, rows, samples, &mut work.x);
        self.encoder_transformer.run(
            self.isa,
            &mut work.transformer,
            &mut slots,
            &mut work.x,
            steps,
            self.group(window),
        );
        let d = self.dimension;
        work.steps.shape(count, self.downsample.pad(), steps, d);
        work.steps.fill(&work.x);
        self.downsample.history(&mut work.steps, &mut slots);
        work.latent.resize(count * frames * d, 0.0);
        let out = Out::raw(&mut work.latent, Rows::packed(frames, d));
        self.downsample.run(&work.steps, count, out);
        SlotState::advance(&mut slots, steps);
        &work.latent[..count * frames * d]
    }

    /// Codes of `rows` latents: `codes(row, codebook, value)` is called for each.
    pub(crate) fn quantize(
        &self,
        work: &mut Work,
        codebooks: usize,
        rows: usize,
        codes: impl FnMut(usize, usize, usize),
    ) {
        self.quantizer.encode(
            self.isa,
            &mut work.quantizer,
            &work.latent[..rows * self.dimension],
            codebooks,
            codes,
        );
    }

    /// One piece of codes of the active slots: `code(slot, codebook, frame)` gives checked codes;
    /// the result is audio, `[active, frames * frame_size]`, in `work`.
    pub(crate) fn decode<'w>(
        &self,
        state: &mut DirectionState,
        work: &'w mut Work,
        code: impl Fn(usize, usize, usize) -> usize,
        codebooks: usize,
        Step {
            frames,
            active,
            window,
        }: Step<'_>,
    ) -> &'w [f32] {
        let on: Vec<usize> = (0..active.len()).filter(|&i| active[i]).collect();
        let mut slots = state.active(active);
        let (count, d) = (slots.len(), self.dimension);
        let steps = frames * self.steps_per_frame;
        self.quantizer.decode(
            &mut work.quantizer,
            |row, book| code(on[row / frames], book, row % frames),
            codebooks,
            count * frames,
            &mut work.latent,
        );
        work.x.resize(count * steps * d, 0.0);
        self.upsample
            .run(&mut slots, &work.latent, frames, &mut work.x);
        self.decoder_transformer.run(
            self.isa,
            &mut work.transformer,
            &mut slots,
            &mut work.x,
            steps,
            self.group(window),
        );
        self.decoder
            .run(&mut work.seanet, &mut slots, &mut work.x, steps);
        SlotState::advance(&mut slots, steps);
        &work.x[..count * frames * self.frame_size]
    }
}

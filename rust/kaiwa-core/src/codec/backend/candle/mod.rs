//! Mimi on Candle's operators, for CUDA and Metal (and, for tests, Candle on the processor).
//!
//! Works on all slots at once, because a device wants few large operations: slots that take no part
//! in a call are fed silence, and their state is kept as it was.

mod attention;
mod conv;
mod quantizer;
mod seanet;
mod state;
#[cfg(test)]
mod tests;
mod transformer;
mod weights;

use std::sync::Arc;

use candle_core::Tensor;

use self::conv::{Conv, ConvShape, Upsample};
use self::quantizer::Quantizer;
use self::seanet::Seanet;
use self::state::{DirectionState, Masks, StateShape};
use self::transformer::Transformer;
use self::weights::Loader;
use super::{CodecBackend, CodecState};
use crate::codec::config::MimiConfig;
use crate::codec::names::MimiTensors;
use crate::codec::weight_type::WeightType;
use crate::codec::window::Window;
use crate::device::{OpenDevice, memory};
use crate::error::Result;

/// Slot-frames worked on at once; longer calls are cut, which changes nothing but memory.
const FRAMES_AT_ONCE: usize = 64;

/// The codec's weights on a device; shared by all streams.
pub(super) struct CandleMimi {
    device: OpenDevice,
    frame_size: usize,
    steps_per_frame: usize,
    dimension: usize,
    encoder: Seanet,
    encoder_transformer: Transformer,
    downsample: Conv,
    upsample: Upsample,
    decoder_transformer: Transformer,
    decoder: Seanet,
    quantizer: Quantizer,
    encoder_shape: StateShape,
    decoder_shape: StateShape,
}

impl CandleMimi {
    /// Reads every weight and puts it on `device`.
    ///
    /// With [`WeightType::Bf16`] matrices and kernels are bf16 (rounded to bf16 but held in f32
    /// on the processor); biases, norms, scales, the residual stream and the quantiser stay f32.
    ///
    /// # Errors
    /// Those of [`MimiTensors::take`]; [`Error::Backend`] if the device has no room.
    pub(super) fn load(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        dtype: WeightType,
        device: OpenDevice,
    ) -> Result<Self> {
        let on = device.clone();
        device.run(|_| Self::load_on(tensors, config, dtype, on))
    }

    /// The same, for a device that has been given the turn.
    fn load_on(
        tensors: &mut MimiTensors,
        config: &MimiConfig,
        dtype: WeightType,
        device: OpenDevice,
    ) -> Result<Self> {
        let mut loader = Loader::new(tensors, device.candle(), dtype);
        let (dim, stride) = (config.seanet.dimension, config.steps_per_frame());
        let encoder = Seanet::encoder(&mut loader, &config.seanet)?;
        let encoder_transformer = Transformer::load(&mut loader, "encoder_transformer", config)?;
        let shape = ConvShape {
            inputs: dim,
            outputs: dim,
            kernel: 2 * stride,
            stride,
            dilation: 1,
            bias: false,
            replicate: true,
        };
        let downsample = Conv::load(&mut loader, "downsample.conv.conv.conv", shape)?;
        let encoder_shape = state_shape(&mut loader, &encoder_transformer);
        let upsample = Upsample::load(&mut loader, "upsample.convtr.convtr.convtr", dim, stride)?;
        let decoder_transformer = Transformer::load(&mut loader, "decoder_transformer", config)?;
        let decoder = Seanet::decoder(&mut loader, &config.seanet)?;
        let decoder_shape = state_shape(&mut loader, &decoder_transformer);
        let quantizer = Quantizer::load(&mut loader, config)?;
        Ok(Self {
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
            encoder_shape,
            decoder_shape,
            device,
        })
    }

    /// Latents `[slots, frames, dimension]` of audio `[slots, frames * frame_size]`. Slots whose
    /// flag is not set keep their state; their latents mean nothing.
    fn latents(
        &self,
        state: &mut DirectionState,
        active: &[bool],
        pcm: Vec<f32>,
        window: Window,
    ) -> Result<Vec<f32>> {
        let (slots, device) = (active.len(), self.device.candle());
        let samples = pcm.len() / slots;
        let steps = samples / self.frame_size * self.steps_per_frame;
        let masks = Masks::new(state, active, device)?;
        let attention = &self.encoder_transformer.attention;
        let plan = attention.plan(state, active, steps, window, device)?;
        let x = Tensor::from_vec(pcm, (slots, 1, samples), device)?;
        let x = self.encoder.run(x, state, &masks)?;
        let x = self.encoder_transformer.run(&x, state, &plan)?;
        let x = self.downsample.run(&x, state, &masks)?;
        let latents = x.transpose(1, 2)?.contiguous()?.flatten_all()?.to_vec1()?;
        state.advance(active, steps);
        Ok(latents)
    }

    /// Audio `[slots, frames * frame_size]` of checked codes `[codebooks, slots, frames]`; for the
    /// rest as [`Self::latents`].
    fn audio(
        &self,
        state: &mut DirectionState,
        active: &[bool],
        codes: Vec<u32>,
        frames: usize,
        window: Window,
    ) -> Result<Vec<f32>> {
        let (slots, device) = (active.len(), self.device.candle());
        let steps = frames * self.steps_per_frame;
        let masks = Masks::new(state, active, device)?;
        let attention = &self.decoder_transformer.attention;
        let plan = attention.plan(state, active, steps, window, device)?;
        let x = self.quantizer.decode(codes, slots * frames, device)?;
        let x = x.reshape((slots, frames, self.dimension))?;
        let x = self.upsample.run(&x, state, &masks)?;
        let x = self.decoder_transformer.run(&x, state, &plan)?;
        let x = self.decoder.run(x, state, &masks)?;
        let pcm = x.flatten_all()?.to_vec1()?;
        state.advance(active, steps);
        Ok(pcm)
    }

    /// The first `codebooks` codes of `rows` latents `[rows, dimension]`: `[rows, codebooks]`.
    fn quantize(&self, latents: &[f32], rows: usize, codebooks: usize) -> Result<Vec<u32>> {
        let latents = Tensor::from_slice(latents, (rows, self.dimension), self.device.candle())?;
        self.quantizer.encode(&latents, codebooks)
    }
}

impl CodecBackend for CandleMimi {
    fn state(self: Arc<Self>, slots: usize, window: Window) -> Result<Box<dyn CodecState>> {
        Ok(Box::new(CandleState::new(self, slots, window)?))
    }
}

/// Running state of a stream's slots.
struct CandleState {
    mimi: Arc<CandleMimi>,
    slots: usize,
    window: Window,
    encoder: DirectionState,
    decoder: DirectionState,
}

impl CandleState {
    fn new(mimi: Arc<CandleMimi>, slots: usize, window: Window) -> Result<Self> {
        let shapes = [&mimi.encoder_shape, &mimi.decoder_shape];
        let bytes = shapes.iter().map(|shape| shape.slot_bytes()).sum();
        let [encoder, decoder] = mimi.device.run(|candle| {
            memory::check_slots(&mimi.device, slots, bytes)?;
            Ok([
                DirectionState::new(shapes[0], slots, candle)?,
                DirectionState::new(shapes[1], slots, candle)?,
            ])
        })?;
        Ok(Self {
            slots,
            window,
            encoder,
            decoder,
            mimi,
        })
    }

    /// One flag a slot: whether it is in the list.
    fn mask(&self, slots: &[usize]) -> Vec<bool> {
        let mut mask = vec![false; self.slots];
        for &slot in slots {
            if let Some(flag) = mask.get_mut(slot) {
                *flag = true;
            }
        }
        mask
    }

    /// Pieces of bounded size of a call of `frames` frames: (first frame, frames) of each.
    fn pieces(&self, frames: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let most = (FRAMES_AT_ONCE / self.slots.max(1)).max(1);
        let pieces = (0..frames).step_by(most);
        pieces.map(move |start| (start, most.min(frames - start)))
    }
}

impl CodecState for CandleState {
    fn encode(
        &mut self,
        slots: &[usize],
        pcm: &[f32],
        codebooks: usize,
        codes: &mut [i32],
    ) -> Result<()> {
        let frames = pcm.len() / (slots.len() * self.mimi.frame_size).max(1);
        let rows = slots.len() * frames;
        let mut latents = vec![0.0; rows * self.mimi.dimension];
        self.encode_latent(slots, pcm, &mut latents)?;
        let mimi = &self.mimi;
        let found = mimi
            .device
            .run(|_| mimi.quantize(&latents, rows, codebooks))?;
        for (at, column) in found.chunks_exact(codebooks).enumerate() {
            let (row, frame) = (at / frames, at % frames);
            for (book, code) in column.iter().enumerate() {
                codes[(row * codebooks + book) * frames + frame] = *code as i32;
            }
        }
        Ok(())
    }

    fn encode_latent(&mut self, slots: &[usize], pcm: &[f32], latents: &mut [f32]) -> Result<()> {
        let (size, width) = (self.mimi.frame_size, self.mimi.dimension);
        let frames = pcm.len() / (slots.len() * size).max(1);
        let active = self.mask(slots);
        for (start, count) in self.pieces(frames) {
            let mut piece = vec![0.0; self.slots * count * size];
            for (row, &slot) in pcm.chunks_exact(frames * size).zip(slots) {
                piece[slot * count * size..][..count * size]
                    .copy_from_slice(&row[start * size..][..count * size]);
            }
            let (mimi, encoder) = (&self.mimi, &mut self.encoder);
            let all = mimi
                .device
                .run(|_| mimi.latents(encoder, &active, piece, self.window))?;
            for (row, &slot) in latents.chunks_exact_mut(frames * width).zip(slots) {
                row[start * width..][..count * width]
                    .copy_from_slice(&all[slot * count * width..][..count * width]);
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        slots: &[usize],
        codes: &[i32],
        codebooks: usize,
        pcm: &mut [f32],
    ) -> Result<()> {
        let size = self.mimi.frame_size;
        let frames = codes.len() / (slots.len() * codebooks).max(1);
        let active = self.mask(slots);
        for (start, count) in self.pieces(frames) {
            // Codebook-major for the lookups, with code 0 for slots that take no part.
            let mut piece = vec![0; codebooks * self.slots * count];
            for (i, chunk) in codes.chunks_exact(frames).enumerate() {
                let (slot, book) = (slots[i / codebooks], i % codebooks);
                let target = &mut piece[(book * self.slots + slot) * count..][..count];
                for (target, code) in target.iter_mut().zip(&chunk[start..]) {
                    *target = *code as u32;
                }
            }
            let (mimi, decoder) = (&self.mimi, &mut self.decoder);
            let all = mimi
                .device
                .run(|_| mimi.audio(decoder, &active, piece, count, self.window))?;
            for (row, &slot) in pcm.chunks_exact_mut(frames * size).zip(slots) {
                row[start * size..][..count * size]
                    .copy_from_slice(&all[slot * count * size..][..count * size]);
            }
        }
        Ok(())
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        let (encoder, decoder) = (&mut self.encoder, &mut self.decoder);
        self.mimi.device.run(|_| {
            encoder.reset(slot)?;
            decoder.reset(slot)
        })
    }

    fn bytes(&self) -> usize {
        self.encoder.bytes() + self.decoder.bytes()
    }
}

impl Drop for CandleMimi {
    fn drop(&mut self) {
        self.device.prepare_drop();
    }
}

impl Drop for CandleState {
    fn drop(&mut self) {
        self.mimi.device.prepare_drop();
    }
}

fn state_shape(loader: &mut Loader<'_>, transformer: &Transformer) -> StateShape {
    StateShape {
        carries: loader.take_carries(),
        layers: transformer.layers(),
        ring_rows: transformer.attention.ring_rows(),
        head_dim: transformer.attention.head_dim,
    }
}

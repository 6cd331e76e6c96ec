//! Mimi on Candle's operators, for CUDA and Metal (and, for tests, Candle on the processor).
//!
//! Works on all slots at once, paused ones included, because a device wants few large
//! operations; paused slots are fed silence and their state is kept as it was.

mod attention;
mod conv;
mod quantizer;
mod seanet;
mod state;
mod transformer;
mod weights;

pub use state::DeviceState;

use candle_core::Tensor;

use self::conv::{Conv, ConvShape, Upsample};
use self::quantizer::Quantizer;
use self::seanet::Seanet;
use self::state::{StateShape, Step};
use self::transformer::Transformer;
use self::weights::Loader;
use crate::codec::{MimiConfig, MimiTensors, WeightType, Window};
use crate::device::OpenDevice;
use crate::error::{Error, Result};

/// Slot-frames worked on at once; longer calls are cut, which changes nothing but memory.
const FRAMES_AT_ONCE: usize = 64;

/// The codec's weights on a device; shared by all streams.
pub struct DeviceMimi {
    device: OpenDevice,
    frame_size: usize,
    steps_per_frame: usize,
    dimension: usize,
    n_q: usize,
    bins: usize,
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

impl DeviceMimi {
    /// Reads every weight and puts it on `device` (see [`crate::device`]).
    ///
    /// With [`WeightType::Bf16`] matrices and kernels are bf16 (rounded to bf16 but held in f32
    /// on the processor); biases, norms, scales, the residual stream and the quantiser stay f32.
    ///
    /// # Errors
    /// Those of [`MimiTensors::take`]; [`Error::Backend`] if the device has no room.
    pub fn load(
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
            n_q: config.quantizer.n_q,
            bins: config.quantizer.bins,
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

    /// Fresh encoder state of `slots` slots.
    pub fn encoder_state(&self, slots: usize) -> Result<DeviceState> {
        DeviceState::new(&self.encoder_shape, slots, self.device.candle())
    }

    /// Fresh decoder state of `slots` slots.
    pub fn decoder_state(&self, slots: usize) -> Result<DeviceState> {
        DeviceState::new(&self.decoder_shape, slots, self.device.candle())
    }

    /// Latents before quantisation, `[slots, frames, dimension]`, of audio `[slots, frames *
    /// frame_size]`. Rows of slots with `active == false` are not read, keep their state, and
    /// come out as 0. Cutting a signal into calls of any number of frames changes nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::Backend`] if the device fails; the
    /// state is then undefined and every slot must be reset.
    pub fn encode_latent(
        &self,
        state: &mut DeviceState,
        pcm: &[f32],
        frames: usize,
        active: &[bool],
        window: Window,
    ) -> Result<Vec<f32>> {
        let slots = state.slots();
        let row = frames * self.frame_size;
        check("pcm", pcm.len(), slots * row, "[slots, frames*frame_size]")?;
        check("active", active.len(), slots, "[slots]")?;
        let mut out = vec![0.0; slots * frames * self.dimension];
        self.in_pieces(frames, active, |start, count| {
            let (from, len) = (start * self.frame_size, count * self.frame_size);
            let mut piece = vec![0.0; slots * len];
            copy_rows(pcm, row, from, &mut piece, len, 0, len, active);
            let step = Step::new(state, active, self.device.candle())?;
            let steps = count * self.steps_per_frame;
            let attention = &self.encoder_transformer.attention;
            let plan = attention.plan(state, active, steps, window, self.device.candle())?;
            let x = Tensor::from_vec(piece, (slots, 1, len), self.device.candle())?;
            let x = self.encoder.run(x, state, &step)?;
            let x = self.encoder_transformer.run(&x, state, &plan)?;
            let x = self.downsample.run(&x, state, &step)?;
            let latents: Vec<f32> = x.transpose(1, 2)?.contiguous()?.flatten_all()?.to_vec1()?;
            let (width, from) = (count * self.dimension, start * self.dimension);
            let all = frames * self.dimension;
            copy_rows(&latents, width, 0, &mut out, all, from, width, active);
            advance(state, active, steps);
            Ok(())
        })?;
        Ok(out)
    }

    /// The first `codebooks` codes of `rows` latents `[rows, dimension]`: `[rows, codebooks]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::CodebookCount`], [`Error::Backend`].
    pub fn quantize(&self, latents: &[f32], rows: usize, codebooks: usize) -> Result<Vec<u32>> {
        check(
            "latents",
            latents.len(),
            rows * self.dimension,
            "[rows, dimension]",
        )?;
        self.check_codebooks(codebooks)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let latents = Tensor::from_slice(latents, (rows, self.dimension), self.device.candle())?;
        self.quantizer.encode(&latents, codebooks)
    }

    /// Audio `[slots, frames * frame_size]` of codes `[slots, codebooks, frames]`. Rows of slots
    /// with `active == false` are not read, keep their state, and come out as 0. Cutting a
    /// sequence into calls of any number of frames changes nothing.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::CodebookCount`], and [`Error::CodeRange`] for a code of an
    /// active slot outside the codebook, all before any state changes; [`Error::Backend`] if the
    /// device fails; the state is then undefined and every slot must be reset.
    pub fn decode(
        &self,
        state: &mut DeviceState,
        codes: &[u32],
        codebooks: usize,
        frames: usize,
        active: &[bool],
        window: Window,
    ) -> Result<Vec<f32>> {
        let slots = state.slots();
        check(
            "codes",
            codes.len(),
            slots * codebooks * frames,
            "[slots, codebooks, frames]",
        )?;
        check("active", active.len(), slots, "[slots]")?;
        self.check_codebooks(codebooks)?;
        self.check_codes(codes, codebooks, frames, active)?;
        let mut out = vec![0.0; slots * frames * self.frame_size];
        self.in_pieces(frames, active, |start, count| {
            // Code-major for the lookups, with code 0 for slots that are not read.
            let mut piece = vec![0; codebooks * slots * count];
            for (row, chunk) in codes.chunks_exact(frames).enumerate() {
                let (slot, book) = (row / codebooks, row % codebooks);
                let at = (book * slots + slot) * count;
                let target = piece.get_mut(at..at + count);
                let source = chunk.get(start..start + count);
                if let (Some(true), Some(target), Some(source)) = (active.get(slot), target, source)
                {
                    target.copy_from_slice(source);
                }
            }
            let step = Step::new(state, active, self.device.candle())?;
            let steps = count * self.steps_per_frame;
            let attention = &self.decoder_transformer.attention;
            let plan = attention.plan(state, active, steps, window, self.device.candle())?;
            let x = self
                .quantizer
                .decode(piece, slots * count, self.device.candle())?;
            let x = x.reshape((slots, count, self.dimension))?;
            let x = self.upsample.run(&x, state, &step)?;
            let x = self.decoder_transformer.run(&x, state, &plan)?;
            let x = self.decoder.run(x, state, &step)?;
            let pcm: Vec<f32> = x.flatten_all()?.to_vec1()?;
            let (len, from) = (count * self.frame_size, start * self.frame_size);
            copy_rows(
                &pcm,
                len,
                0,
                &mut out,
                frames * self.frame_size,
                from,
                len,
                active,
            );
            advance(state, active, steps);
            Ok(())
        })?;
        Ok(out)
    }

    /// Cuts a call into pieces of bounded size: `work(first frame, frames)`.
    fn in_pieces(
        &self,
        frames: usize,
        active: &[bool],
        mut work: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        if !active.contains(&true) {
            return Ok(());
        }
        let most = (FRAMES_AT_ONCE / active.len()).max(1);
        (0..frames)
            .step_by(most)
            .try_for_each(|start| work(start, most.min(frames - start)))
    }

    fn check_codebooks(&self, got: usize) -> Result<()> {
        if (1..=self.n_q).contains(&got) {
            return Ok(());
        }
        Err(Error::CodebookCount { got, max: self.n_q })
    }

    /// A lookup past the end of a codebook is undefined on a device, so it is refused here.
    fn check_codes(
        &self,
        codes: &[u32],
        codebooks: usize,
        frames: usize,
        active: &[bool],
    ) -> Result<()> {
        for (row, chunk) in codes.chunks(frames.max(1)).enumerate() {
            let (slot, codebook) = (row / codebooks, row % codebooks);
            let wrong = chunk.iter().position(|code| *code as usize >= self.bins);
            if let (Some(true), Some(frame)) = (active.get(slot), wrong) {
                return Err(Error::CodeRange {
                    row: slot,
                    codebook,
                    frame,
                    value: chunk.get(frame).copied().unwrap_or(0).into(),
                    cardinality: self.bins,
                });
            }
        }
        Ok(())
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

/// Copies `len` elements of each active row between arrays of rows of other lengths.
#[allow(clippy::too_many_arguments)]
fn copy_rows(
    from: &[f32],
    from_row: usize,
    from_start: usize,
    to: &mut [f32],
    to_row: usize,
    to_start: usize,
    len: usize,
    active: &[bool],
) {
    let rows = from
        .chunks_exact(from_row)
        .zip(to.chunks_exact_mut(to_row))
        .zip(active);
    for ((from, to), _) in rows.filter(|(_, on)| **on) {
        let source = from.get(from_start..from_start + len);
        if let (Some(source), Some(target)) = (source, to.get_mut(to_start..to_start + len)) {
            target.copy_from_slice(source);
        }
    }
}

fn advance(state: &mut DeviceState, active: &[bool], steps: usize) {
    for (position, _) in state
        .positions
        .iter_mut()
        .zip(active)
        .filter(|(_, on)| **on)
    {
        *position += steps as u64;
    }
}

fn check(what: &'static str, got: usize, wanted: usize, axes: &str) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(Error::Shape {
        what,
        got: format!("[{got}]"),
        wanted: format!("{axes} ({wanted} values)"),
        remedy: "pass one row per slot of the state",
    })
}

//! What the codec asks of the arithmetic, and the ways to do it: a folder each.
//!
//! A backend works on rows: the slots that take part in a call, one after the other. It is given
//! only what was checked, and knows nothing of paused slots' rows in its callers' arrays.

mod candle;
mod cpu;

use std::sync::Arc;

use self::candle::CandleMimi;
use self::cpu::CpuMimi;
use super::config::MimiConfig;
use super::names::MimiTensors;
use super::weight_type::WeightType;
use super::window::Window;
use crate::device::Device;
use crate::error::Result;

/// The codec's weights on a device; shared by all streams.
pub(super) trait CodecBackend: Send + Sync {
    /// Fresh running state of `slots` conversations.
    fn state(self: Arc<Self>, slots: usize, window: Window) -> Result<Box<dyn CodecState>>;
}

/// Running state of the slots of a stream, encoder and decoder, and how to advance it.
///
/// `slots` are ascending and distinct; row `i` of the other arguments belongs to `slots[i]`. All
/// arrays are row-major and have exactly the sizes named. Slots that are not in the list keep
/// their state. Cutting a signal into calls of any number of frames changes nothing. After an
/// error the state of all slots is undefined until they are reset.
pub(super) trait CodecState: Send {
    /// Codes `[rows, codebooks, frames]` of audio `[rows, frames * frame_size]`.
    fn encode(
        &mut self,
        slots: &[usize],
        pcm: &[f32],
        codebooks: usize,
        codes: &mut [i32],
    ) -> Result<()>;

    /// Latents before quantisation, `[rows, frames, dimension]`, of audio `[rows, frames *
    /// frame_size]`.
    fn encode_latent(&mut self, slots: &[usize], pcm: &[f32], latents: &mut [f32]) -> Result<()>;

    /// Audio `[rows, frames * frame_size]` of codes `[rows, codebooks, frames]`, all of which lie
    /// in their codebook.
    fn decode(
        &mut self,
        slots: &[usize],
        codes: &[i32],
        codebooks: usize,
        pcm: &mut [f32],
    ) -> Result<()>;

    /// Returns a slot to its beginning, encoder and decoder.
    fn reset(&mut self, slot: usize) -> Result<()>;

    /// Bytes of running state of all slots, encoder and decoder, when fully used.
    fn bytes(&self) -> usize;
}

/// Reads every weight and puts it where `device` computes.
///
/// # Errors
/// Those of [`MimiTensors::take`]; [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable);
/// [`Error::Backend`](crate::Error::Backend) if the device has no room.
pub(super) fn load(
    tensors: &mut MimiTensors,
    config: &MimiConfig,
    device: Device,
    dtype: WeightType,
) -> Result<Arc<dyn CodecBackend>> {
    Ok(match device {
        Device::Cpu => Arc::new(CpuMimi::load(tensors, config, dtype)?),
        _ => Arc::new(CandleMimi::load(tensors, config, dtype, device.open()?)?),
    })
}

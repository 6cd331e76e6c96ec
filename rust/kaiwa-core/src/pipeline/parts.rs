//! What the pipelines over a codec and a language model have in common.

use super::{FRAME_SIZE, FrameIn, GpuBytes};
use crate::codec::{Mimi, MimiStream};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::lm::{Moshi, MoshiStream};

/// Whether the codec's codes are those that the model listens to.
pub(super) fn hears(mimi: &Mimi, moshi: &Moshi) -> bool {
    mimi.config().quantizer.bins == moshi.config().card
        && mimi.num_codebooks() >= moshi.config().user_codebooks()
}

/// Slots and samples, `[rows, frame_size]`, of the rows of a step.
///
/// # Errors
/// [`Error::OptionValue`] for rows of text.
pub(super) fn audio_of(rows: &[(usize, FrameIn<'_>)]) -> Result<(Vec<usize>, Vec<f32>)> {
    let mut pcm = Vec::with_capacity(rows.len() * FRAME_SIZE);
    for (_, frame) in rows {
        let FrameIn::Audio(samples) = frame else {
            return Err(Error::OptionValue {
                name: "input",
                got: "text".into(),
                allowed: "audio: this model listens".into(),
            });
        };
        pcm.extend_from_slice(samples);
    }
    Ok((rows.iter().map(|(slot, _)| *slot).collect(), pcm))
}

/// Rows of `slots` whose conversation has made no step. The model never looks at the codes of a
/// first step, so they have to be given twice if nothing of what is said may be lost.
pub(super) fn fresh_rows(lm: &MoshiStream, slots: &[usize]) -> Vec<usize> {
    let steps = lm.steps();
    (0..slots.len())
        .filter(|row| steps[slots[*row]] == 0)
        .collect()
}

/// The rows `which` of `rows`, each of `width` values.
pub(super) fn chosen<T: Copy>(rows: &[T], width: usize, which: &[usize]) -> Vec<T> {
    let row = |row: &usize| rows[row * width..][..width].iter().copied();
    which.iter().flat_map(row).collect()
}

/// What a model and a codec have on graphics cards, weights and running state.
pub(super) fn gpu_bytes(
    (moshi, lm): (&Moshi, &MoshiStream),
    (mimi, codec): (&Mimi, &MimiStream),
) -> GpuBytes {
    on_gpus(
        (moshi.device(), moshi.weight_bytes(), lm.state_bytes()),
        (mimi.device(), codec.state_bytes()),
    )
}

/// What lies on graphics cards, of a model (its device, bytes of weights, bytes of state) and a
/// codec (its device, bytes of state): each may be on a device of its own.
fn on_gpus(model: (Device, usize, usize), codec: (Device, usize)) -> GpuBytes {
    let (model_on, codec_on) = (model.0.is_gpu(), codec.0.is_gpu());
    let count = |on: bool, bytes: usize| if on { bytes } else { 0 };
    GpuBytes {
        weights: count(model_on, model.1),
        state: count(model_on, model.2) + count(codec_on, codec.1),
    }
}

pub(super) fn mismatch(mimi: &Mimi, moshi: &Moshi) -> Error {
    Error::OptionValue {
        name: "mimi",
        got: format!(
            "a codec with {} codebooks of {} entries and frames of {} samples",
            mimi.num_codebooks(),
            mimi.config().quantizer.bins,
            mimi.config().frame_size()
        ),
        allowed: format!(
            "the codec that belongs to the model: {} codebooks of {} entries, frames of \
             {FRAME_SIZE} samples",
            moshi.config().user_codebooks(),
            moshi.config().card
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_a_card_counts_as_its_memory() {
        use Device::{CandleCpu, Cpu, Cuda, Metal};
        for (model, codec, weights, state) in [
            (Cpu, Cpu, 0, 0),
            (CandleCpu, CandleCpu, 0, 0),
            (Cuda(1), Cuda(1), 100, 30),
            (Metal(0), Metal(0), 100, 30),
            (Cuda(0), Cpu, 100, 20),
            (Cuda(0), CandleCpu, 100, 20),
            (Cpu, Cuda(0), 0, 10),
        ] {
            let bytes = on_gpus((model, 100, 20), (codec, 10));
            assert_eq!(bytes, GpuBytes { weights, state }, "{model:?}, {codec:?}");
        }
    }
}

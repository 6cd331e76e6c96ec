//! Causal convolutions as matrix products over time-major data (docs/spec/mimi.md 2.1, 2.2, 2.6).

use super::Loader;
use super::state::SlotState;
use crate::cpu::{self, Out, Packed, Rows, Taps};
use crate::error::Result;

/// Columns of the active slots, each slot's new columns behind room for its history:
/// `[slots, prefix + columns, channels]`.
#[derive(Default)]
pub(super) struct Padded {
    data: Vec<f32>,
    slots: usize,
    prefix: usize,
    columns: usize,
    channels: usize,
}

impl Padded {
    /// Gives the buffer a shape; contents are undefined until written.
    pub(super) fn shape(&mut self, slots: usize, prefix: usize, columns: usize, channels: usize) {
        (self.slots, self.prefix, self.columns, self.channels) = (slots, prefix, columns, channels);
        let len = slots * self.slot_len();
        if self.data.len() < len {
            self.data.resize(len, 0.0);
        }
    }

    fn slot_len(&self) -> usize {
        (self.prefix + self.columns) * self.channels
    }

    /// The new columns in groups of `group` columns a row, and the slice they lie in.
    pub(super) fn target(&mut self, group: usize) -> (&mut [f32], Rows) {
        let rows = Rows {
            offset: self.prefix * self.channels,
            per_slot: self.columns / group,
            slot_stride: self.slot_len(),
            row_stride: group * self.channels,
        };
        (&mut self.data, rows)
    }

    /// Writes the new columns of all slots from `[slots, columns, channels]`.
    pub(super) fn fill(&mut self, x: &[f32]) {
        let len = self.columns * self.channels;
        for (i, columns) in x.chunks_exact(len).take(self.slots).enumerate() {
            let start = i * self.slot_len() + self.prefix * self.channels;
            self.data[start..][..len].copy_from_slice(columns);
        }
    }
}

/// Puts each slot's history in front of its new columns and keeps the last columns for the next
/// step. `replicate` starts with the first column repeated instead of zeros.
fn exchange(x: &mut Padded, slots: &mut [&mut SlotState], at: usize, replicate: bool) {
    let keep = x.prefix * x.channels;
    if keep == 0 {
        return;
    }
    let slot_len = x.slot_len();
    for (data, slot) in x.data.chunks_exact_mut(slot_len).zip(slots) {
        let fresh = slot.fresh();
        let history = &mut slot.history[at..at + keep];
        if replicate && fresh {
            let (prefix, new) = data.split_at_mut(keep);
            for column in prefix.chunks_exact_mut(x.channels) {
                column.copy_from_slice(&new[..x.channels]);
            }
        } else {
            data[..keep].copy_from_slice(history);
        }
        history.copy_from_slice(&data[slot_len - keep..]);
    }
}

/// Shape of a causal convolution.
pub(super) struct ConvShape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub bias: bool,
    pub replicate: bool,
}

/// A causal convolution: `columns / stride` outputs from `columns` inputs and the last `pad`
/// columns before them.
pub(super) struct Conv {
    weight: Packed,
    stride: usize,
    pad: usize,
    replicate: bool,
    history_at: usize,
}

impl Conv {
    /// Reads `{name}.weight` `[outputs, inputs, kernel]` and `{name}.bias`.
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, shape: ConvShape) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            dilation,
            bias,
            replicate,
        } = shape;
        let w = loader
            .tensors
            .take(&format!("{name}.weight"), &[outputs, inputs, kernel])?;
        let b = match bias {
            true => Some(loader.tensors.take(&format!("{name}.bias"), &[outputs])?),
            false => None,
        };
        let weight = loader.packer.pack(
            outputs,
            Taps {
                taps: kernel,
                run: inputs,
                stride: dilation * inputs,
            },
            b.as_deref(),
            |o, k| w[(o * inputs + k % inputs) * kernel + k / inputs],
        );
        let pad = (kernel - 1) * dilation + 1 - stride;
        let history_at = loader.history;
        loader.history += pad * inputs;
        Ok(Self {
            weight,
            stride,
            pad,
            replicate,
            history_at,
        })
    }

    /// Columns of history.
    pub(super) fn pad(&self) -> usize {
        self.pad
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Completes the input with each slot's history; to be called once before [`Self::run`].
    pub(super) fn history(&self, x: &mut Padded, slots: &mut [&mut SlotState]) {
        exchange(x, slots, self.history_at, self.replicate);
    }

    /// The convolution itself; `x` has `pad` columns of history.
    pub(super) fn run(&self, x: &Padded, slots: usize, out: Out<'_>) {
        let per_slot = x.columns / self.stride;
        let rows = Rows {
            offset: 0,
            per_slot,
            slot_stride: x.slot_len(),
            row_stride: self.stride * x.channels,
        };
        cpu::matmul(&self.weight, &x.data, rows, slots * per_slot, out);
    }
}

/// A causal transposed convolution with a kernel of twice its stride: each input column and the
/// one before it make `stride` output columns.
pub(super) struct ConvTranspose {
    weight: Packed,
    stride: usize,
    outputs: usize,
    history_at: usize,
}

impl ConvTranspose {
    /// Reads `{name}.weight` `[inputs, outputs, 2 * stride]` and `{name}.bias`.
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
        stride: usize,
    ) -> Result<Self> {
        let w = loader
            .tensors
            .take(&format!("{name}.weight"), &[inputs, outputs, 2 * stride])?;
        let b = loader.tensors.take(&format!("{name}.bias"), &[outputs])?;
        let bias: Vec<f32> = std::iter::repeat_n(&b, stride).flatten().copied().collect();
        // An output row is the `stride` new columns side by side; the first half of an input row
        // is the column before, which the second half of the kernel belongs to.
        let weight = loader.packer.pack(
            stride * outputs,
            Taps::one(2 * inputs),
            Some(&bias),
            |n, k| {
                let (tap, o) = (n / outputs, n % outputs);
                let tap = if k < inputs { tap + stride } else { tap };
                w[(k % inputs * outputs + o) * 2 * stride + tap]
            },
        );
        let history_at = loader.history;
        loader.history += inputs;
        Ok(Self {
            weight,
            stride,
            outputs,
            history_at,
        })
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Completes the input with each slot's last column; to be called once before [`Self::run`].
    pub(super) fn history(&self, x: &mut Padded, slots: &mut [&mut SlotState]) {
        exchange(x, slots, self.history_at, false);
    }

    /// The transposed convolution; `x` has one column of history. Output rows are `stride`
    /// columns wide.
    pub(super) fn run(&self, x: &Padded, slots: usize, out: Out<'_>) {
        let rows = Rows {
            offset: 0,
            per_slot: x.columns,
            slot_stride: x.slot_len(),
            row_stride: x.channels,
        };
        cpu::matmul(&self.weight, &x.data, rows, slots * x.columns, out);
    }
}

/// The depthwise transposed convolution from frames to latent steps.
pub(super) struct Upsample {
    /// `[channels, 2 * stride]`.
    weight: Vec<f32>,
    stride: usize,
    history_at: usize,
}

impl Upsample {
    /// Reads `{name}.weight` `[channels, 1, 2 * stride]`.
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        channels: usize,
        stride: usize,
    ) -> Result<Self> {
        let weight = loader
            .tensors
            .take(&format!("{name}.weight"), &[channels, 1, 2 * stride])?;
        let history_at = loader.history;
        loader.history += channels;
        Ok(Self {
            weight,
            stride,
            history_at,
        })
    }

    /// `x` is `[slots, columns, channels]`, `out` `[slots, columns * stride, channels]`.
    pub(super) fn run(
        &self,
        slots: &mut [&mut SlotState],
        x: &[f32],
        columns: usize,
        out: &mut [f32],
    ) {
        let (stride, channels) = (self.stride, self.weight.len() / (2 * self.stride));
        let (len, out_len) = (columns * channels, columns * stride * channels);
        let pieces = x.chunks_exact(len).zip(out.chunks_exact_mut(out_len));
        for ((x, out), slot) in pieces.zip(slots) {
            let last = &mut slot.history[self.history_at..self.history_at + channels];
            for (new, out) in x
                .chunks_exact(channels)
                .zip(out.chunks_exact_mut(stride * channels))
            {
                for (j, out) in out.chunks_exact_mut(channels).enumerate() {
                    for c in 0..channels {
                        let w = &self.weight[c * 2 * stride..][..2 * stride];
                        out[c] = new[c] * w[j] + last[c] * w[stride + j];
                    }
                }
                last.copy_from_slice(new);
            }
        }
    }
}

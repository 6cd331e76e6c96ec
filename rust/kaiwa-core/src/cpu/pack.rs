//! Weight matrices laid out for the matrix kernel, once at load.
//!
//! A matrix of `n` outputs by `k` inputs becomes panels of `width` outputs; inside a panel the
//! inputs run slowest, so the kernel reads weights in one forward sweep. Missing outputs of the
//! last panel are zeros. Very thin matrices (`n <= 4`) stay row-major for the dot kernel.

use half::bf16;

use super::arena::{Arena, Region};
use super::isa::Isa;
use super::simd::{self, Simd};

/// How a packed matrix holds its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightBits {
    F32,
    Bf16,
}

/// A weight matrix `[n outputs, k inputs]` with optional bias, ready for [`super::matmul`].
pub(crate) struct Packed {
    pub(super) isa: Isa,
    pub(super) bits: WeightBits,
    pub(super) n: usize,
    /// Inputs are `taps` runs of `run` contiguous values each, `tap_stride` apart in the row.
    pub(super) taps: usize,
    pub(super) run: usize,
    pub(super) tap_stride: usize,
    /// Columns of a panel; 0 means row-major for the dot kernel.
    pub(super) width: usize,
    pub(super) data: Region,
    /// One value per output, padded to whole panels; zeros if the layer has none.
    pub(super) bias: Vec<f32>,
}

fn panel_width(isa: Isa) -> usize {
    let vectors = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => simd::Avx512::NV,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => simd::Avx2::NV,
        _ => simd::Portable::NV,
    };
    vectors * 16
}

impl Packed {
    /// Packs `weight(output, input)` for `n` outputs and `taps * run` inputs. `tap_stride` is the
    /// distance in the input row between the starts of two taps (`run` when they touch).
    pub(crate) fn new(
        arena: &mut Arena,
        isa: Isa,
        bits: WeightBits,
        n: usize,
        (taps, run, tap_stride): (usize, usize, usize),
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        // Touching taps are one long run.
        let (taps, run) = if tap_stride == run {
            (1, taps * run)
        } else {
            (taps, run)
        };
        let k = taps * run;
        // A panel of a matrix with so few outputs would be mostly padding.
        let width = if n <= 4 { 0 } else { panel_width(isa) };
        let rows = if width == 0 {
            n
        } else {
            n.next_multiple_of(width)
        };
        // The dot kernel reads whole vectors: its rows are padded with zeros.
        let row_len = if width == 0 {
            run.next_multiple_of(16) * taps
        } else {
            k
        };
        let values = rows * row_len;
        let mut data = arena.take(match bits {
            WeightBits::F32 => values * 4,
            WeightBits::Bf16 => values * 2,
        });
        for o in 0..n {
            for i in 0..k {
                let at = if width == 0 {
                    o * row_len + (i / run) * run.next_multiple_of(16) + i % run
                } else {
                    (o / width * k + i) * width + o % width
                };
                match bits {
                    WeightBits::F32 => data.f32s_mut()[at] = weight(o, i),
                    WeightBits::Bf16 => {
                        data.u16s_mut()[at] = bf16::from_f32(weight(o, i)).to_bits();
                    }
                }
            }
        }
        let mut padded = vec![0.0; rows.next_multiple_of(16)];
        if let Some(bias) = bias {
            padded[..n].copy_from_slice(&bias[..n]);
        }
        Self {
            isa,
            bits,
            n,
            taps,
            run,
            tap_stride,
            width,
            data,
            bias: padded,
        }
    }

    /// Packs a row-major `[n, k]` matrix without bias.
    pub(crate) fn dense(
        arena: &mut Arena,
        isa: Isa,
        bits: WeightBits,
        n: usize,
        k: usize,
        w: &[f32],
    ) -> Self {
        Self::new(arena, isa, bits, n, (1, k, k), None, |o, i| w[o * k + i])
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.n
    }

    /// Bytes of packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes() + self.bias.len() * 4
    }

    /// The weight of one output and input, widened: for gathers and tests.
    pub(crate) fn get(&self, o: usize, i: usize) -> f32 {
        let k = self.taps * self.run;
        let at = if self.width == 0 {
            let run = self.run.next_multiple_of(16);
            o * run * self.taps + (i / self.run) * run + i % self.run
        } else {
            (o / self.width * k + i) * self.width + o % self.width
        };
        match self.bits {
            WeightBits::F32 => self.data.f32s()[at],
            WeightBits::Bf16 => bf16::from_bits(self.data.u16s()[at]).to_f32(),
        }
    }

    /// Floats of an input row that the kernel reads.
    pub(super) fn input_span(&self) -> usize {
        (self.taps - 1) * self.tap_stride + self.run
    }
}

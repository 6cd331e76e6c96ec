//! Weight matrices laid out for the matrix kernel, once at load.
//!
//! A matrix of `n` outputs by `k` inputs becomes panels of `width` outputs; inside a panel the
//! inputs run slowest, so the kernel reads weights in one forward sweep. Missing outputs of the
//! last panel are zeros. Very thin matrices (`n <= 4`) stay row-major for the dot kernel.

use half::bf16;

use super::arena::{Arena, Region};
use super::isa::Isa;
use super::quant::Quant;
use super::simd::{self, Simd};

/// How a packed matrix holds its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightBits {
    F32,
    Bf16,
    /// Integers with scales; see [`super::quant`]. Only made by `Packer::stream`.
    Quant(Quant),
}

/// Where the weight of an output and an input lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Panels of this many outputs.
    Panels(usize),
    /// One row an output, each tap padded to whole vectors, for the dot kernel.
    Rows,
}

/// Inputs of a row: `taps` runs of `run` contiguous values each, `stride` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taps {
    pub taps: usize,
    pub run: usize,
    pub stride: usize,
}

impl Taps {
    /// One run.
    pub(crate) fn one(run: usize) -> Self {
        Self {
            taps: 1,
            run,
            stride: run,
        }
    }

    /// Inputs of an output.
    pub(super) fn inputs(&self) -> usize {
        self.taps * self.run
    }

    /// Floats of an input row from the first input to the last.
    pub(super) fn span(&self) -> usize {
        (self.taps - 1) * self.stride + self.run
    }

    /// A run in whole vectors.
    pub(super) fn padded_run(&self) -> usize {
        self.run.next_multiple_of(16)
    }
}

/// A weight matrix `[n outputs, inputs]` with optional bias, ready for [`super::matmul`].
pub(crate) struct Packed {
    pub(super) isa: Isa,
    pub(super) bits: WeightBits,
    pub(super) n: usize,
    pub(super) taps: Taps,
    pub(super) layout: Layout,
    pub(super) data: Region,
    /// One value per output, padded to whole vectors; zeros if the layer has none.
    pub(super) bias: Vec<f32>,
    /// Quantised with one scale an output: that scale, padded to whole vectors. Else empty.
    pub(super) row_scale: Vec<f32>,
}

pub(super) fn panel_width(isa: Isa) -> usize {
    let vectors = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => simd::Avx512::NV,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => simd::Avx2::NV,
        _ => simd::Portable::NV,
    };
    vectors * 16
}

/// Kind of numbers and memory that a matrix is packed into.
pub(crate) struct Packer {
    pub arena: Arena,
    pub isa: Isa,
    pub bits: WeightBits,
}

impl Packer {
    /// Packs `weight(output, input)` for `n` outputs.
    pub(crate) fn pack(
        &mut self,
        n: usize,
        taps: Taps,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Packed {
        let k = taps.inputs();
        // Touching taps are one long run.
        let taps = if taps.stride == taps.run {
            Taps::one(k)
        } else {
            taps
        };
        // A panel of a matrix with so few outputs would be mostly padding.
        let layout = if n <= 4 {
            Layout::Rows
        } else {
            Layout::Panels(panel_width(self.isa))
        };
        let values = match layout {
            Layout::Panels(width) => n.next_multiple_of(width) * k,
            Layout::Rows => n * taps.taps * taps.padded_run(),
        };
        let data = self.arena.take(match self.bits {
            WeightBits::F32 => values * 4,
            WeightBits::Bf16 | WeightBits::Quant(_) => values * 2,
        });
        let mut padded = vec![0.0; n.next_multiple_of(64)];
        if let Some(bias) = bias {
            padded[..n].copy_from_slice(&bias[..n]);
        }
        let (isa, bits) = (self.isa, self.bits);
        let mut packed = Packed {
            isa,
            bits,
            n,
            taps,
            layout,
            data,
            bias: padded,
            row_scale: Vec::new(),
        };
        for o in 0..n {
            for i in 0..k {
                let at = packed.at(o, i);
                match bits {
                    WeightBits::F32 => packed.data.f32s_mut()[at] = weight(o, i),
                    WeightBits::Bf16 | WeightBits::Quant(_) => {
                        packed.data.u16s_mut()[at] = bf16::from_f32(weight(o, i)).to_bits();
                    }
                }
            }
        }
        packed
    }

    /// Packs a row-major `[n, k]` matrix without bias.
    pub(crate) fn dense(&mut self, n: usize, k: usize, w: &[f32]) -> Packed {
        self.pack(n, Taps::one(k), None, |o, i| w[o * k + i])
    }
}

impl Packed {
    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.n
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.taps.inputs()
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes().len() + 4 * self.row_scale.len()
    }

    /// How the numbers are held.
    pub(crate) fn bits(&self) -> WeightBits {
        self.bits
    }

    fn at(&self, o: usize, i: usize) -> usize {
        let Taps { taps, run, .. } = self.taps;
        match self.layout {
            Layout::Panels(width) => (o / width * taps * run + i) * width + o % width,
            Layout::Rows => (o * taps + i / run) * self.taps.padded_run() + i % run,
        }
    }

    /// The weight of one output and input, widened: for gathers and tests.
    pub(crate) fn get(&self, o: usize, i: usize) -> f32 {
        let at = self.at(o, i);
        match self.bits {
            WeightBits::F32 => self.data.f32s()[at],
            WeightBits::Bf16 => bf16::from_bits(self.data.u16s()[at]).to_f32(),
            WeightBits::Quant(q) => {
                let k = self.taps.inputs();
                q.get(self.data.bytes(), &self.row_scale, k, o, i)
            }
        }
    }
}

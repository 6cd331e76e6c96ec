//! The form of matrices of 8-bit and 4-bit integers with scales.
//!
//! A weight is `scale * (q + offset) + bias` with an unsigned integer `q` and a scale (and bias) per
//! `group` inputs of an output, or one scale an output. A product takes its activations as integers
//! too (`gemm/activations.rs`), and equals f32 arithmetic on the dequantised weights to about 1e-5.
//!
//! Layout: panels of 16 outputs, in a panel group after group, everything of a group together: its
//! scales (16 x 16 bit), its biases, then the integers, four neighbouring inputs of an output side
//! by side, outputs next, inputs slowest. Four-bit values of inputs `8c + j` and `8c + 4 + j` share
//! a byte. One forward sweep reads all of it.

use half::{bf16, f16};

/// Outputs of a panel, for every instruction set.
pub(super) const WIDTH: usize = 16;

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleKind {
    F16,
    Bf16,
    /// One f32 an output, applied after the sum.
    Row,
}

/// The form of a quantised matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quant {
    /// 8 or 4, unsigned.
    pub bits: u8,
    /// Inputs per scale, a multiple of [`Self::chunk`] that divides the inputs; at most
    /// [`MAX_GROUP`].
    pub group: usize,
    pub scale: ScaleKind,
    /// True if each group has a bias, in the type of its scale.
    pub bias: bool,
    /// Added to every integer.
    pub offset: i32,
}

/// Largest group: 128 inputs of at most 255 times 32639 stay within an i32.
pub(crate) const MAX_GROUP: usize = 128;

impl Quant {
    /// Bytes of the scales and biases of a group in a panel.
    pub(super) fn head(&self) -> usize {
        let one = match self.scale {
            ScaleKind::Row => 0,
            ScaleKind::F16 | ScaleKind::Bf16 => 2 * WIDTH,
        };
        one * (1 + usize::from(self.bias))
    }

    /// Bytes of a group in a panel.
    pub(super) fn group_bytes(&self) -> usize {
        self.head() + self.group * WIDTH * usize::from(self.bits) / 8
    }

    /// Bytes of a panel of `k` inputs.
    pub(super) fn panel_bytes(&self, k: usize) -> usize {
        k / self.group * self.group_bytes()
    }

    /// Inputs of an output that lie side by side: four bytes.
    pub(super) fn chunk(&self) -> usize {
        32 / usize::from(self.bits)
    }

    /// Byte of a value inside its group's integers, and the shift of its bits.
    #[inline(always)]
    pub(super) fn place(&self, output: usize, input: usize) -> (usize, u32) {
        let (chunk, i) = (input / self.chunk(), input % self.chunk());
        (4 * (chunk * WIDTH + output) + i % 4, i as u32 / 4 * 4)
    }

    /// Widens a stored scale or bias.
    fn widen(&self, bits: u16) -> f32 {
        match self.scale {
            ScaleKind::F16 => f16::from_bits(bits).to_f32(),
            ScaleKind::Bf16 | ScaleKind::Row => bf16::from_bits(bits).to_f32(),
        }
    }

    /// One weight of a packed matrix of `k` inputs, dequantised: for gathers and tests.
    pub(super) fn get(&self, data: &[u8], row_scale: &[f32], k: usize, o: usize, i: usize) -> f32 {
        let panel = &data[o / WIDTH * self.panel_bytes(k)..];
        let group = &panel[i / self.group * self.group_bytes()..];
        let (output, input) = (o % WIDTH, i % self.group);
        let word = |at: usize| u16::from_le_bytes([group[2 * at], group[2 * at + 1]]);
        let (at, shift) = self.place(output, input);
        let byte = group[self.head() + at];
        let q = i32::from(byte >> shift) & ((1 << self.bits) - 1);
        let scale = match self.scale {
            ScaleKind::Row => row_scale[o],
            _ => self.widen(word(output)),
        };
        let bias = if self.bias {
            self.widen(word(WIDTH + output))
        } else {
            0.0
        };
        scale * (q + self.offset) as f32 + bias
    }
}

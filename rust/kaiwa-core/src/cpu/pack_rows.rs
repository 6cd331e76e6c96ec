//! Packing large matrices at load: rows come from a file in pieces and go straight into panels,
//! on all threads, without an f32 copy of the matrix.

use std::ops::Range;

use half::bf16;

use super::pack::{Layout, Packed, Packer, Taps, WeightBits, panel_width};
use super::pool;
use super::quant::{MAX_GROUP, Quant, ScaleKind, WIDTH};
use crate::checkpoint::{Encoding, RawRows};
use crate::error::Result;

/// Bytes of packed data that one task makes.
const TASK_BYTES: usize = 1 << 18;

/// The integer form that a matrix of `k` inputs takes when its rows are encoded so; `None` if
/// the kernels have none, and the rows must be given as floats.
pub(crate) fn quant_of(encoding: Encoding, k: usize) -> Option<Quant> {
    let grouped = |bits, group, scale, bias, offset| Quant {
        bits,
        group,
        scale,
        bias,
        offset,
    };
    let quant = match encoding {
        Encoding::Q8_0 => grouped(8, 32, ScaleKind::F16, false, -128),
        Encoding::Q4_0 => grouped(4, 32, ScaleKind::F16, false, -8),
        Encoding::Q4_1 => grouped(4, 32, ScaleKind::F16, true, 0),
        Encoding::Int8Rows => {
            let group = [MAX_GROUP, 64, 32]
                .into_iter()
                .find(|g| k.is_multiple_of(*g))?;
            grouped(8, group, ScaleKind::Row, false, -128)
        }
        Encoding::Affine { bits: 8, group } => grouped(8, group, ScaleKind::Bf16, true, 0),
        Encoding::Affine { bits: 4, group } => grouped(4, group, ScaleKind::Bf16, true, 0),
        _ => return None,
    };
    let fits = quant.group.is_multiple_of(quant.chunk()) && quant.group <= MAX_GROUP;
    (fits && k > 0 && k.is_multiple_of(quant.group)).then_some(quant)
}

impl Packer {
    /// Packs a matrix `[n, k]` from rows that `fetch` gives in `encoding`: F32 rows into what
    /// `self.bits` says (F32 or Bf16), Bf16 rows as they are, integers in their [`quant_of`].
    ///
    /// # Errors
    /// Whatever `fetch` fails with.
    pub(crate) fn stream(
        &mut self,
        n: usize,
        k: usize,
        encoding: Encoding,
        fetch: &(dyn Fn(Range<usize>, &mut RawRows) -> Result<()> + Sync),
    ) -> Result<Packed> {
        let bits = match (quant_of(encoding, k), encoding) {
            (Some(q), _) => WeightBits::Quant(q),
            (None, Encoding::Bf16) => WeightBits::Bf16,
            (None, _) => self.bits,
        };
        let (width, panel) = match bits {
            WeightBits::Quant(q) => (WIDTH, q.panel_bytes(k)),
            WeightBits::F32 => (panel_width(self.isa), panel_width(self.isa) * k * 4),
            WeightBits::Bf16 => (panel_width(self.isa), panel_width(self.isa) * k * 2),
        };
        let mut data = self.arena.take(n.div_ceil(width) * panel);
        let mut row_scale = match bits {
            WeightBits::Quant(q) if q.scale == ScaleKind::Row => vec![0.0; n.next_multiple_of(64)],
            _ => Vec::new(),
        };
        let each = (TASK_BYTES / panel.max(1)).max(1);
        let scales = std::sync::Mutex::new(&mut row_scale);
        let task = |t: usize, out: &mut [u8]| -> Result<()> {
            let first = t * each * width;
            let rows = first..(first + each * width).min(n);
            let mut raw = RawRows::default();
            fetch(rows.clone(), &mut raw)?;
            let stride = raw.data.len() / rows.len().max(1);
            for (p, out) in out.chunks_exact_mut(panel).enumerate() {
                let count = width.min(rows.len() - p * width);
                let rows = Piece {
                    raw: &raw,
                    stride,
                    first: p * width,
                    count,
                    total: rows.len(),
                };
                match (bits, encoding) {
                    (WeightBits::Quant(q), _) => rows.pack_quant(q, encoding, k, out),
                    (WeightBits::F32, _) => rows.pack_f32(width, k, out),
                    (WeightBits::Bf16, Encoding::Bf16) => rows.pack_u16(width, k, out),
                    (WeightBits::Bf16, _) => rows.pack_rounded(width, k, out),
                }
            }
            if encoding == Encoding::Int8Rows {
                let mut all = scales
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let scales = raw.scales.as_chunks::<4>().0;
                for (to, from) in all[rows].iter_mut().zip(scales) {
                    *to = f32::from_le_bytes(*from) / 127.0;
                }
            }
            Ok(())
        };
        pool::for_each_chunk(data.bytes_mut(), each * panel, task)?;
        Ok(Packed {
            isa: self.isa,
            bits,
            n,
            taps: Taps::one(k),
            layout: Layout::Panels(width),
            data,
            bias: vec![0.0; n.next_multiple_of(64)],
            row_scale,
        })
    }
}

/// The rows of one panel inside a fetched piece.
struct Piece<'a> {
    raw: &'a RawRows,
    /// Bytes of a row's data.
    stride: usize,
    first: usize,
    count: usize,
    /// Rows of the whole piece.
    total: usize,
}

impl Piece<'_> {
    fn row(&self, o: usize) -> &[u8] {
        &self.raw.data[(self.first + o) * self.stride..][..self.stride]
    }

    fn pack_f32(&self, width: usize, k: usize, out: &mut [u8]) {
        for o in 0..self.count {
            let row = self.row(o).as_chunks::<4>().0;
            for (i, v) in row.iter().enumerate().take(k) {
                out[(i * width + o) * 4..][..4].copy_from_slice(v);
            }
        }
    }

    fn pack_rounded(&self, width: usize, k: usize, out: &mut [u8]) {
        for o in 0..self.count {
            let row = self.row(o).as_chunks::<4>().0;
            for (i, v) in row.iter().enumerate().take(k) {
                let v = bf16::from_f32(f32::from_le_bytes(*v)).to_le_bytes();
                out[(i * width + o) * 2..][..2].copy_from_slice(&v);
            }
        }
    }

    fn pack_u16(&self, width: usize, k: usize, out: &mut [u8]) {
        // In squares, so that both sides stay in the first cache.
        for start in (0..k).step_by(64) {
            let run = 64.min(k - start);
            for o in 0..self.count {
                let row = self.row(o)[2 * start..][..2 * run].as_chunks::<2>().0;
                let out = &mut out[start * width * 2..][..run * width * 2];
                for (to, v) in out.chunks_exact_mut(width * 2).zip(row) {
                    to[2 * o..2 * o + 2].copy_from_slice(v);
                }
            }
        }
    }

    fn pack_quant(&self, q: Quant, encoding: Encoding, k: usize, out: &mut [u8]) {
        let groups = k / q.group;
        for (g, out) in out.chunks_exact_mut(q.group_bytes()).enumerate() {
            let (head, ints) = out.split_at_mut(q.head());
            for o in 0..self.count {
                match encoding {
                    Encoding::Q8_0 => {
                        let block = &self.row(o)[g * 34..][..34];
                        head[2 * o..2 * o + 2].copy_from_slice(&block[..2]);
                        fours(&block[2..], 0x80, ints, o);
                    }
                    Encoding::Q4_0 => {
                        let block = &self.row(o)[g * 18..][..18];
                        head[2 * o..2 * o + 2].copy_from_slice(&block[..2]);
                        halves(&block[2..], ints, o);
                    }
                    Encoding::Q4_1 => {
                        let block = &self.row(o)[g * 20..][..20];
                        head[2 * o..2 * o + 2].copy_from_slice(&block[..2]);
                        let at = 2 * (WIDTH + o);
                        head[at..at + 2].copy_from_slice(&block[2..4]);
                        halves(&block[4..], ints, o);
                    }
                    Encoding::Int8Rows => {
                        fours(&self.row(o)[g * q.group..][..q.group], 0x80, ints, o);
                    }
                    Encoding::Affine { bits, group } => {
                        let at = ((self.first + o) * groups + g) * 2;
                        debug_assert!(at + 2 <= self.raw.scales.len() && self.total > 0);
                        head[2 * o..2 * o + 2].copy_from_slice(&self.raw.scales[at..at + 2]);
                        let to = 2 * (WIDTH + o);
                        head[to..to + 2].copy_from_slice(&self.raw.biases[at..at + 2]);
                        let bytes = group * usize::from(bits) / 8;
                        let row = &self.row(o)[g * bytes..][..bytes];
                        if bits == 8 {
                            fours(row, 0, ints, o);
                            continue;
                        }
                        // A byte holds inputs 2i and 2i + 1; here 8c + j meets 8c + 4 + j.
                        let low = |byte: u8| byte & 15;
                        for (to, v) in ints.chunks_exact_mut(4 * WIDTH).zip(row.as_chunks::<4>().0)
                        {
                            to[4 * o..4 * o + 4].copy_from_slice(&[
                                low(v[0]) | low(v[2]) << 4,
                                v[0] >> 4 | v[2] & 0xf0,
                                low(v[1]) | low(v[3]) << 4,
                                v[1] >> 4 | v[3] & 0xf0,
                            ]);
                        }
                    }
                    _ => unreachable!("quant_of knows no other"),
                }
            }
        }
    }
}

/// Four neighbouring inputs of output `o`, fours slowest; `flip` makes signed bytes unsigned.
fn fours(values: &[u8], flip: u8, ints: &mut [u8], o: usize) {
    let chunks = ints.chunks_exact_mut(4 * WIDTH);
    for (to, v) in chunks.zip(values.as_chunks::<4>().0) {
        to[4 * o..4 * o + 4].copy_from_slice(&v.map(|byte| byte ^ flip));
    }
}

/// GGUF's block of 32 four-bit values: byte `i` holds inputs `i` and `i + 16`.
fn halves(block: &[u8], ints: &mut [u8], o: usize) {
    let (words, _) = block.as_chunks::<4>();
    for (c, to) in ints.chunks_exact_mut(4 * WIDTH).enumerate() {
        let [first, second] = [2 * c % 4, 2 * c % 4 + 1].map(|at| {
            let word = u32::from_le_bytes(words[at]);
            (if c < 2 { word } else { word >> 4 }) & 0x0f0f_0f0f
        });
        to[4 * o..4 * o + 4].copy_from_slice(&(first | second << 4).to_le_bytes());
    }
}

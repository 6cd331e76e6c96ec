//! From rows as they lie in a file to units of fragments.

use half::bf16;
use rayon::prelude::*;

use super::Pairing;
use super::form::Form;
use super::fragments::{Place, place, scale_place};
use super::plan::PackedShape;
use crate::checkpoint::encoding::row_bytes;
use crate::checkpoint::{Encoding, RawRows};

/// A matrix as the kernels read it.
pub(crate) struct Packed {
    pub shape: PackedShape,
    /// [`PackedShape::bytes`] of weights.
    pub bytes: Vec<u8>,
    /// Factors of the sums, `[16 tiles]`; empty if there are none.
    pub row_scales: Vec<f32>,
}

/// Packs all rows of a matrix as they lie in their file, in the form that [`Form::of`] names.
///
/// # Errors
/// A sentence if there is no such form, if the rows have another length than their encoding, or if
/// a gate has no equal half.
pub(crate) fn pack_raw(
    encoding: Encoding,
    rows: usize,
    cols: usize,
    raw: &RawRows,
    pairing: Pairing,
) -> Result<Packed, String> {
    let form = Form::of(encoding, cols)
        .ok_or_else(|| format!("no kernel multiplies {encoding:?} with {cols} inputs"))?;
    let wanted = row_bytes(encoding, cols).map(|bytes| bytes * rows);
    if wanted != [raw.data.len(), raw.scales.len(), raw.biases.len()] {
        return Err("raw rows have another length than their encoding".into());
    }
    let source = Source {
        encoding,
        cols,
        raw,
    };
    pack(form, rows, cols, pairing, |row, out| source.row(row, out))
}

/// Packs the numbers `[rows, cols]` of a matrix as `form`, which is [`Form::F32`] or [`Form::Bf16`].
///
/// # Errors
/// A sentence for other forms, if there are not as many numbers, or if a gate has no equal half.
pub(crate) fn pack_f32(
    form: Form,
    rows: usize,
    cols: usize,
    values: &[f32],
    pairing: Pairing,
) -> Result<Packed, String> {
    if values.len() != rows * cols {
        return Err("there are not as many numbers as the matrix has".into());
    }
    if form.bits() != 0 {
        return Err(format!("numbers are not rounded to {form:?} here"));
    }
    pack(form, rows, cols, pairing, |row, out| {
        let values = &values[row * cols..][..cols];
        out.data.clear();
        match form {
            Form::F32 => out.data.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            _ => {
                let rounded = values.iter().map(|v| bf16::from_f32(*v));
                out.data.extend(rounded.flat_map(bf16::to_le_bytes));
            }
        }
    })
}

#[cfg(test)]
impl Packed {
    /// The same packed as large matrices are, whose blocks take four tiles.
    pub(crate) fn widened(mut self) -> Self {
        let shape = &mut self.shape;
        let per_tile = shape.units * shape.form.unit_bytes();
        let empty = {
            let mut tile = vec![0; per_tile];
            let places = Places::new(shape.form);
            (0..16).for_each(|output| places.put_nothing(output, &mut tile));
            tile
        };
        shape.strip = 4;
        while !shape.tiles.is_multiple_of(4) {
            shape.tiles += 1;
            self.bytes.extend(&empty);
            if !self.row_scales.is_empty() {
                self.row_scales.extend([0.0; 16]);
            }
        }
        self
    }
}

/// A row of a matrix, one number after the other.
#[derive(Default)]
struct Row {
    /// The bytes of each number; integers a byte each, as the kernels take them (half bytes are
    /// 8 more than they stand for).
    data: Vec<u8>,
    /// Of each of the form's groups; 128 inputs of MLX are two.
    scales: Vec<[u8; 2]>,
    addends: Vec<[u8; 2]>,
    /// Of the whole row.
    scale: f32,
}

/// Rows as they lie in a file.
struct Source<'a> {
    encoding: Encoding,
    cols: usize,
    raw: &'a RawRows,
}

impl Source<'_> {
    fn row(&self, row: usize, out: &mut Row) {
        let each = row_bytes(self.encoding, self.cols);
        let part = |bytes: &'_ [u8], i: usize| bytes[row * each[i]..][..each[i]].to_vec();
        let data = part(&self.raw.data, 0);
        out.data.clear();
        out.scales.clear();
        out.addends.clear();
        // Blocks of GGUF: `head` numbers of 16 bits, then the integers of 32 weights.
        let mut blocks = |size: usize, head: usize, integers: &dyn Fn(&[u8], &mut Vec<u8>)| {
            for block in data.chunks_exact(size) {
                out.scales.push([block[0], block[1]]);
                if head > 1 {
                    out.addends.push([block[2], block[3]]);
                }
                integers(&block[2 * head..], &mut out.data);
            }
        };
        let halves = |bytes: &[u8], to: &mut Vec<u8>| {
            to.extend(bytes.iter().map(|q| q & 15));
            to.extend(bytes.iter().map(|q| q >> 4));
        };
        match self.encoding {
            Encoding::Q8_0 => blocks(34, 1, &|bytes, to| to.extend(bytes)),
            Encoding::Q4_0 => blocks(18, 1, &halves),
            Encoding::Q4_1 => blocks(20, 2, &halves),
            Encoding::Affine { bits, group } => {
                if bits == 8 {
                    // From 0..=255 to -128..=127.
                    out.data.extend(data.iter().map(|q| q ^ 0x80));
                } else {
                    out.data.extend(data.iter().flat_map(|q| [q & 15, q >> 4]));
                }
                let times = group.div_ceil(64);
                let twice = |bytes: Vec<u8>, to: &mut Vec<[u8; 2]>| {
                    for number in bytes.as_chunks::<2>().0 {
                        to.extend(std::iter::repeat_n(*number, times));
                    }
                };
                twice(part(&self.raw.scales, 1), &mut out.scales);
                twice(part(&self.raw.biases, 2), &mut out.addends);
            }
            Encoding::Int8Rows => {
                out.data.extend(&data);
                let scale = part(&self.raw.scales, 1);
                let scale = scale.first_chunk::<4>();
                out.scale = scale.map_or(0.0, |b| f32::from_le_bytes(*b)) / 127.0;
            }
            _ => out.data.extend(&data),
        }
    }
}

/// Packs rows that `read` gives, tile by tile on all cores.
fn pack(
    form: Form,
    rows: usize,
    cols: usize,
    pairing: Pairing,
    read: impl Fn(usize, &mut Row) + Sync,
) -> Result<Packed, String> {
    let gated = pairing == Pairing::GateUp;
    if gated && !rows.is_multiple_of(2) {
        return Err(format!(
            "{rows} outputs are not a gate and as many to be gated"
        ));
    }
    if rows == 0 || cols == 0 {
        return Err("the matrix is empty".into());
    }
    let n = if gated { rows / 2 } else { rows };
    let shape = PackedShape::new(form, cols, n, gated);
    // Row of the matrix that is output `output` of a tile.
    let row_of = |tile: usize, output: usize| {
        let (first, half) = if gated {
            (tile / 2 * 16, tile % 2 * n)
        } else {
            (tile * 16, 0)
        };
        (first + output < n).then_some(half + first + output)
    };
    let places = Places::new(form);
    let per_tile = shape.units * form.unit_bytes();
    let mut bytes = vec![0; shape.bytes()];
    let row_scales: Vec<f32> = bytes
        .par_chunks_mut(per_tile)
        .enumerate()
        .flat_map_iter(|(tile, bytes)| {
            let mut row = Row::default();
            let mut scales = [0.0; 16];
            for (output, scale) in scales.iter_mut().enumerate() {
                if let Some(index) = row_of(tile, output) {
                    read(index, &mut row);
                    places.put(output, &row, bytes);
                    *scale = row.scale;
                } else {
                    places.put_nothing(output, bytes);
                }
            }
            scales
        })
        .collect();
    Ok(Packed {
        shape,
        bytes,
        row_scales: match form {
            Form::Int8Rows => row_scales,
            _ => Vec::new(),
        },
    })
}

/// Places of all weights of a unit.
struct Places {
    form: Form,
    /// `[16, unit]`.
    weights: Vec<Place>,
    /// Bytes of a weight; 0 for half bytes.
    size: usize,
}

impl Places {
    fn new(form: Form) -> Self {
        let weights = (0..16)
            .flat_map(|output| (0..form.unit()).map(move |input| place(form, output, input)));
        Self {
            form,
            weights: weights.collect(),
            size: match form {
                Form::F32 => 4,
                Form::Bf16 => 2,
                _ if form.bits() == 8 => 1,
                _ => 0,
            },
        }
    }

    /// Writes a row of a tile, and zeros where its inputs end inside a unit.
    fn put(&self, output: usize, row: &Row, tile: &mut [u8]) {
        let unit = self.form.unit();
        let places = &self.weights[output * unit..][..unit];
        let groups = self.form.groups();
        let units = tile.chunks_exact_mut(self.form.unit_bytes());
        let one = self.size.max(1);
        for (u, bytes) in units.enumerate() {
            let values = row.data.get(u * unit * one..).unwrap_or(&[]);
            match self.size {
                0 => {
                    let filled = values.iter().chain(std::iter::repeat(&NOTHING));
                    for (place, q) in places.iter().zip(filled) {
                        bytes[place.byte] |= q << place.shift;
                    }
                }
                1 => {
                    for (place, q) in places.iter().zip(values) {
                        bytes[place.byte] = *q;
                    }
                }
                size => {
                    for (place, v) in places.iter().zip(values.chunks_exact(size)) {
                        bytes[place.byte..place.byte + size].copy_from_slice(v);
                    }
                }
            }
            for group in 0..groups {
                for (addend, numbers) in [(false, &row.scales), (true, &row.addends)] {
                    if let Some(number) = numbers.get(u * groups + group) {
                        let at = scale_place(self.form, output, group, addend);
                        bytes[at..at + 2].copy_from_slice(number);
                    }
                }
            }
        }
    }

    /// Writes zeros.
    fn put_nothing(&self, output: usize, tile: &mut [u8]) {
        self.put(output, &Row::default(), tile);
    }
}

/// The half byte that stands for zero.
const NOTHING: u8 = 8;

/// Rows of an encoding without a pattern: scales of both signs, every integer.
#[cfg(test)]
pub(crate) fn random_rows(encoding: Encoding, rows: usize, cols: usize, seed: u64) -> RawRows {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let [data, scales, biases] = row_bytes(encoding, cols).map(|bytes| bytes * rows);
    let mut raw = RawRows {
        data: (0..data).map(|_| next() as u8).collect(),
        ..RawRows::default()
    };
    let mut small = || (next() >> 8) as f32 / (1u32 << 27) as f32 - 0.0625;
    let mut brains = |count: usize| -> Vec<u8> {
        let numbers = (0..count / 2).map(|_| bf16::from_f32(small()));
        numbers.flat_map(bf16::to_le_bytes).collect()
    };
    match encoding {
        Encoding::Affine { .. } => {
            raw.scales = brains(scales);
            raw.biases = brains(biases);
        }
        Encoding::Bf16 => raw.data = brains(data),
        Encoding::F32 => {
            raw.data = (0..data / 4).flat_map(|_| small().to_le_bytes()).collect();
        }
        Encoding::Int8Rows => {
            let numbers = (0..scales / 4).flat_map(|_| (small() + 0.07).to_le_bytes());
            raw.scales = numbers.collect();
        }
        _ => {
            let (block, head) = match encoding {
                Encoding::Q8_0 => (34, 2),
                Encoding::Q4_0 => (18, 2),
                _ => (20, 4),
            };
            for block in raw.data.chunks_exact_mut(block) {
                for number in block[..head].as_chunks_mut::<2>().0 {
                    *number = half::f16::from_f32(small()).to_le_bytes();
                }
            }
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::encoding::decode_row;
    use half::f16;

    /// Every weight read back from its place, against the plain decoder of files.
    #[test]
    fn packed_weights_are_those_of_the_file() {
        let encodings = [
            (Encoding::F32, 42),
            (Encoding::Bf16, 33),
            (Encoding::Int8Rows, 70),
            (Encoding::Q8_0, 96),
            (Encoding::Q4_0, 96),
            (Encoding::Q4_1, 32),
            (Encoding::Affine { bits: 8, group: 32 }, 96),
            (Encoding::Affine { bits: 8, group: 64 }, 128),
            (
                Encoding::Affine {
                    bits: 8,
                    group: 128,
                },
                256,
            ),
            (Encoding::Affine { bits: 4, group: 32 }, 96),
            (Encoding::Affine { bits: 4, group: 64 }, 64),
            (
                Encoding::Affine {
                    bits: 4,
                    group: 128,
                },
                128,
            ),
        ];
        for (encoding, cols) in encodings {
            for (rows, pairing) in [(37, Pairing::Plain), (42, Pairing::GateUp)] {
                let raw = random_rows(encoding, rows, cols, 7);
                let packed = pack_raw(encoding, rows, cols, &raw, pairing).unwrap();
                let mut wanted = vec![0.0; cols];
                for row in 0..rows {
                    decode_row(encoding, cols, &raw, rows, row, &mut wanted);
                    for (input, wanted) in wanted.iter().enumerate() {
                        let (tile, output) = match pairing {
                            Pairing::Plain => (row / 16, row % 16),
                            Pairing::GateUp => {
                                let (half, at) = (row / (rows / 2), row % (rows / 2));
                                (at / 16 * 2 + half, at % 16)
                            }
                        };
                        let got = weight(&packed, tile, output, input);
                        assert!(
                            (got - wanted).abs() <= 1e-6 * wanted.abs().max(1e-3),
                            "{encoding:?} {row} {input}: {got} {wanted}"
                        );
                    }
                }
                // What fills up counts for nothing.
                let shape = packed.shape;
                for tile in 0..shape.tiles {
                    let last = tile / 2 * 16 + 15 >= rows / 2 && tile / 2 * 16 < rows / 2;
                    let unused = pairing == Pairing::GateUp && last;
                    if unused {
                        assert_eq!(weight(&packed, tile, 15, 0), 0.0, "{encoding:?}");
                    }
                    if cols < shape.units * shape.form.unit() {
                        assert_eq!(weight(&packed, tile, 0, cols), 0.0, "{encoding:?}");
                    }
                }
            }
        }
    }

    /// The weight that the kernel sees.
    fn weight(packed: &Packed, tile: usize, output: usize, input: usize) -> f32 {
        let form = packed.shape.form;
        let unit = tile * packed.shape.units + input / form.unit();
        let bytes = &packed.bytes[unit * form.unit_bytes()..][..form.unit_bytes()];
        let Place { byte, shift } = place(form, output, input % form.unit());
        let number = |at: usize| {
            let pair = [bytes[at], bytes[at + 1]];
            match form {
                Form::Affine { .. } => bf16::from_le_bytes(pair).to_f32(),
                _ => f16::from_le_bytes(pair).to_f32(),
            }
        };
        let q = match form {
            Form::F32 => return f32::from_le_bytes(bytes[byte..byte + 4].try_into().unwrap()),
            Form::Bf16 => return bf16::from_le_bytes([bytes[byte], bytes[byte + 1]]).to_f32(),
            _ if form.bits() == 8 => f32::from(bytes[byte] as i8),
            _ => f32::from(bytes[byte] >> shift & 15) - 8.0,
        };
        if form == Form::Int8Rows {
            return q * packed.row_scales[16 * tile + output];
        }
        let group = input % form.unit() / (form.unit() / form.groups());
        let scale = number(scale_place(form, output, group, false));
        let centre = if form.bits() == 8 { 128.0 } else { 8.0 };
        let addend = match form.addends() {
            true => number(scale_place(form, output, group, true)) + centre * scale,
            false => 0.0,
        };
        scale * q + addend
    }

    #[test]
    fn what_cannot_be_packed_is_told() {
        let raw = RawRows::default();
        let bad = |encoding, rows, cols, pairing| {
            pack_raw(encoding, rows, cols, &raw, pairing).err().unwrap()
        };
        assert!(bad(Encoding::Q8_0, 1, 40, Pairing::Plain).contains("40 inputs"));
        assert!(bad(Encoding::F16, 1, 32, Pairing::Plain).contains("F16"));
        assert!(bad(Encoding::F32, 1, 32, Pairing::Plain).contains("length"));
        let numbers = [0.0; 96];
        let bad = |form, rows, pairing| pack_f32(form, rows, 32, &numbers, pairing).err().unwrap();
        assert!(bad(Form::Bf16, 3, Pairing::GateUp).contains("gate"));
        assert!(bad(Form::Bf16, 2, Pairing::Plain).contains("numbers"));
        assert!(bad(Form::Q8_0, 3, Pairing::Plain).contains("Q8_0"));
    }
}

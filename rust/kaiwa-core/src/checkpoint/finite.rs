//! Whether raw rows hold numbers: their floats and scales must not be NaN or infinite.

use half::{bf16, f16};
use rayon::prelude::*;

use super::encoding::{Encoding, RawRows};

/// A part of [`RawRows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Data,
    Scales,
    Biases,
}

/// What is known of the floats in raw rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Floats {
    /// All are finite.
    Finite,
    /// Where the first one is that is not: counted in values of the matrix for `Part::Data` (of
    /// a block its first value), in scales or biases else.
    Bad {
        part: Part,
        index: usize,
        value: f32,
    },
    /// Blocks whose scales do not lie in front; they have to be dequantised.
    Unknown,
}

/// Looks at every float and scale.
pub(crate) fn floats(raw: &RawRows, encoding: Encoding) -> Floats {
    let bad = |part| {
        move |found: Option<(usize, f32)>| match found {
            None => Floats::Finite,
            Some((index, value)) => Floats::Bad { part, index, value },
        }
    };
    let data = bad(Part::Data);
    // `halves` f16 numbers in front of each block of 32 values.
    let heads = |block: usize, halves: usize| {
        let found = first(&raw.data, block, |bytes| {
            bytes
                .chunks_exact(block)
                .enumerate()
                .find_map(|(i, block)| {
                    first_half(&block[..2 * halves]).map(|(_, value)| (i, value))
                })
        });
        data(found.map(|(block, value)| (32 * block, value)))
    };
    match encoding.canonical() {
        Encoding::F32 => data(first(&raw.data, 4, first_f32)),
        Encoding::F16 => data(first(&raw.data, 2, first_half)),
        Encoding::Bf16 => data(first(&raw.data, 2, first_bf16)),
        Encoding::Q8_0 => heads(34, 1),
        Encoding::Q4_0 => heads(18, 1),
        Encoding::Q4_1 => heads(20, 2),
        Encoding::Ggml(_) => Floats::Unknown,
        Encoding::Int8Rows => bad(Part::Scales)(first_f32(&raw.scales)),
        Encoding::Affine { .. } => match bad(Part::Scales)(first_bf16(&raw.scales)) {
            Floats::Finite => bad(Part::Biases)(first_bf16(&raw.biases)),
            found => found,
        },
    }
}

/// The first thing that `find` finds, counted in items of `size` bytes, with its value. Matrices
/// have gigabytes: on all cores.
fn first(
    bytes: &[u8],
    size: usize,
    find: impl Fn(&[u8]) -> Option<(usize, f32)> + Sync,
) -> Option<(usize, f32)> {
    let pieces = bytes.par_chunks(PIECE).enumerate();
    pieces
        .filter_map(|(piece, bytes)| {
            find(bytes).map(|(index, value)| (piece * (PIECE / size) + index, value))
        })
        .find_first(|_| true)
}

/// Whole numbers of every size, and whole blocks of 34, 18 and 20 bytes.
const PIECE: usize = 3060 << 9;

fn first_f32(bytes: &[u8]) -> Option<(usize, f32)> {
    let words = bytes.as_chunks::<4>().0.iter().enumerate();
    let mut values = words.map(|(i, word)| (i, f32::from_le_bytes(*word)));
    values.find(|(_, value)| !value.is_finite())
}

fn first_half(bytes: &[u8]) -> Option<(usize, f32)> {
    let pairs = bytes.as_chunks::<2>().0.iter().enumerate();
    let mut values = pairs.map(|(i, pair)| (i, f16::from_le_bytes(*pair)));
    let found = values.find(|(_, value)| !value.is_finite());
    found.map(|(i, value)| (i, value.to_f32()))
}

fn first_bf16(bytes: &[u8]) -> Option<(usize, f32)> {
    let pairs = bytes.as_chunks::<2>().0.iter().enumerate();
    let mut values = pairs.map(|(i, pair)| (i, bf16::from_le_bytes(*pair)));
    let found = values.find(|(_, value)| !value.is_finite());
    found.map(|(i, value)| (i, value.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `size` bytes an item, each with a NaN of f16 or bf16 or f32 at `at`.
    fn raw(bytes: usize, at: Option<usize>, nan: &[u8]) -> Vec<u8> {
        let mut all = vec![0; bytes];
        if let Some(at) = at {
            all[at..at + nan.len()].copy_from_slice(nan);
        }
        all
    }

    #[test]
    fn the_first_bad_number_is_found_wherever_it_is() {
        let half = f16::NAN.to_le_bytes();
        let brain = bf16::INFINITY.to_le_bytes();
        let word = f32::NAN.to_le_bytes();
        // Item, its size, offset of the number in it, the number, values an item.
        let kinds: [(Encoding, usize, usize, &[u8], usize); 7] = [
            (Encoding::F32, 4, 0, &word, 1),
            (Encoding::F16, 2, 0, &half, 1),
            (Encoding::Bf16, 2, 0, &brain, 1),
            (Encoding::Q8_0, 34, 0, &half, 32),
            (Encoding::Q4_0, 18, 0, &half, 32),
            (Encoding::Q4_1, 20, 0, &half, 32),
            (Encoding::Q4_1, 20, 2, &half, 32),
        ];
        for (encoding, size, offset, nan, values) in kinds {
            // In the second piece of those that are looked at on several cores.
            let items = PIECE / size + 7;
            let fine = RawRows {
                data: raw(items * size, None, nan),
                ..RawRows::default()
            };
            assert_eq!(floats(&fine, encoding), Floats::Finite);
            for item in [0, 5, items - 2] {
                let mut bad = fine.clone();
                bad.data = raw(items * size, Some(item * size + offset), nan);
                match floats(&bad, encoding) {
                    Floats::Bad {
                        part: Part::Data,
                        index,
                        value,
                    } => assert!(index == item * values && !value.is_finite()),
                    other => panic!("{encoding:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn scales_and_biases_are_looked_at_where_they_are_apart() {
        let affine = Encoding::Affine { bits: 4, group: 32 };
        let infinite = bf16::INFINITY.to_le_bytes();
        for (encoding, scales, biases, part, index) in [
            (
                Encoding::Int8Rows,
                raw(40, Some(12), &f32::NAN.to_le_bytes()),
                vec![],
                Part::Scales,
                3,
            ),
            (
                affine,
                raw(40, Some(12), &infinite),
                raw(40, None, &[]),
                Part::Scales,
                6,
            ),
            (
                affine,
                raw(40, None, &[]),
                raw(40, Some(38), &infinite),
                Part::Biases,
                19,
            ),
        ] {
            let rows = RawRows {
                data: vec![255; 64],
                scales,
                biases,
            };
            match floats(&rows, encoding) {
                Floats::Bad {
                    part: found,
                    index: at,
                    ..
                } => assert_eq!((found, at), (part, index)),
                other => panic!("{encoding:?}: {other:?}"),
            }
        }
    }
}

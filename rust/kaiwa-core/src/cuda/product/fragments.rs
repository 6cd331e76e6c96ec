//! Where a weight lies in its unit: the order in which the lanes of `mma` take them.
//!
//! `cuda/mma.h` has the table of the instruction, `cuda/product_weights.h` says which inputs are
//! which of its columns. With `g = output % 8` and `t = input % 16 / 4`, lane `4 g + t` holds the
//! weight; of its four words, `output / 8` is the first bit of the number and `input % 4 / 2` the
//! second.

use super::form::Form;

/// A place inside a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub byte: usize,
    /// For half bytes 0 or 4.
    pub shift: u32,
}

/// Place of the weight of output `output` of a tile (below 16) and input `input` of a unit.
pub(super) fn place(form: Form, output: usize, input: usize) -> Place {
    let (g, second) = (output % 8, output / 8);
    let (block, step, t, j) = (input / 32, input % 32 / 16, input % 16 / 4, input % 4);
    let lane = 16 * (4 * g + t);
    let byte = match form {
        Form::Bf16 => 512 * step + lane + 4 * (second + 2 * (j / 2)) + 2 * (j % 2),
        // Two vectors: each has two neighbours of both outputs.
        Form::F32 => 512 * (2 * step + j / 2) + lane + 4 * (2 * second + j % 2),
        // A word has all four of an output; what becomes a pair is two bytes apart.
        _ if form.bits() == 8 => 512 * block + lane + 8 * step + 4 * second + [0, 2, 1, 3][j],
        // A word has all eight; what becomes a pair is four half bytes apart.
        _ => {
            let nibble = second + 2 * (j / 2) + 4 * (j % 2);
            return Place {
                byte: lane + 8 * block + 4 * step + nibble / 2,
                shift: 4 * (nibble % 2) as u32,
            };
        }
    };
    Place { byte, shift: 0 }
}

/// Byte of scale `group` of an output in its unit; the addends lie behind.
pub(super) fn scale_place(form: Form, output: usize, group: usize, addend: bool) -> usize {
    let (g, second) = (output % 8, output / 8);
    let number = form.groups() * (second + 2 * usize::from(addend)) + group;
    512 * form.chunks() + form.scale_bytes() * g + 2 * number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every weight and scale has a place of its own, and together they fill the unit.
    #[test]
    fn places_fill_a_unit() {
        for form in Form::ALL {
            let mut used = vec![0u8; form.unit_bytes()];
            let bytes = match form {
                Form::F32 => 4,
                Form::Bf16 => 2,
                _ => 1,
            };
            for output in 0..16 {
                for input in 0..form.unit() {
                    let place = place(form, output, input);
                    let bits = if form.bits() == 4 {
                        0x0f << place.shift
                    } else {
                        0xff
                    };
                    for byte in &mut used[place.byte..place.byte + bytes] {
                        assert_eq!(*byte & bits, 0, "{form:?} {output} {input}");
                        *byte |= bits;
                    }
                }
                for group in 0..form.groups() {
                    for addend in [false, true]
                        .into_iter()
                        .take(1 + usize::from(form.addends()))
                    {
                        let at = scale_place(form, output, group, addend);
                        for byte in &mut used[at..at + 2] {
                            assert_eq!(*byte, 0, "{form:?} {output} {group}");
                            *byte = 0xff;
                        }
                    }
                }
            }
            assert!(used.iter().all(|byte| *byte == 0xff), "{form:?}");
        }
    }
}

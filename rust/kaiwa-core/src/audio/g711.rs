//! G.711, the 8-bit audio of telephones: µ-law (North America, Japan) and A-law (elsewhere). A byte
//! is one sample.

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// µ-law.
    Mu,
    /// A-law.
    A,
}

/// What µ-law adds to a magnitude of 14 bits, so that every segment begins at a power of two.
const BIAS: u16 = 33;
/// Largest magnitude of 14 bits that µ-law holds, without the bias.
const CLIP: u16 = 8158;

static MU_DECODED: [f32; 256] = decoded(Law::Mu);
static A_DECODED: [f32; 256] = decoded(Law::A);

/// Samples of a byte each, at the end of `pcm`.
pub fn decode(law: Law, bytes: &[u8], pcm: &mut Vec<f32>) {
    let table = match law {
        Law::Mu => &MU_DECODED,
        Law::A => &A_DECODED,
    };
    pcm.extend(bytes.iter().map(|byte| table[usize::from(*byte)]));
}

/// Samples as a byte each; what is louder than full scale is clipped.
pub fn encode(law: Law, pcm: &[f32]) -> Vec<u8> {
    let code = match law {
        Law::Mu => mu_code,
        Law::A => a_code,
    };
    let scaled = |x: &f32| (x.clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i16;
    pcm.iter().map(|x| code(scaled(x))).collect()
}

/// The value of every byte.
const fn decoded(law: Law) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = match law {
            Law::Mu => mu_value(byte as u8),
            Law::A => a_value(byte as u8),
        };
        table[byte] = value as f32 / 32768.0;
        byte += 1;
    }
    table
}

/// The 16-bit sample of a byte.
const fn mu_value(byte: u8) -> i32 {
    let code = !byte as i32;
    let bias = 4 * BIAS as i32;
    let magnitude = ((((code & 0x0f) << 3) + bias) << ((code >> 4) & 7)) - bias;
    if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// The 16-bit sample of a byte.
const fn a_value(byte: u8) -> i32 {
    let code = (byte ^ 0x55) as i32;
    let (segment, step) = ((code >> 4) & 7, (code & 0x0f) << 4);
    let magnitude = if segment == 0 {
        step + 8
    } else {
        (step + 0x108) << (segment - 1)
    };
    if code & 0x80 != 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// The byte of a 16-bit sample.
fn mu_code(sample: i16) -> u8 {
    // 14 bits.
    let sample = sample >> 2;
    let magnitude = sample.unsigned_abs().min(CLIP) + BIAS;
    let segment = bits(magnitude >> 6);
    let code = (segment << 4) | ((magnitude >> (segment + 1)) & 0x0f) as u8;
    code ^ if sample < 0 { 0x7f } else { 0xff }
}

/// The byte of a 16-bit sample.
fn a_code(sample: i16) -> u8 {
    // 13 bits.
    let sample = sample >> 3;
    let magnitude = if sample < 0 { !sample } else { sample } as u16;
    let segment = bits(magnitude >> 5);
    let code = (segment << 4) | ((magnitude >> segment.max(1)) & 0x0f) as u8;
    code ^ if sample < 0 { 0x55 } else { 0xd5 }
}

/// Bits that a number has: the segment, as segments double in length.
fn bits(number: u16) -> u8 {
    (u16::BITS - number.leading_zeros()) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and their values in 16 bits: ends of segments, both signs (ITU-T G.711, tables 1a to
    /// 2b).
    #[test]
    fn known_codes() {
        let known: [(Law, &[(u8, i32)]); 2] = [
            (
                Law::Mu,
                &[
                    (0x80, 32124),
                    (0x8f, 16764),
                    (0x9f, 8316),
                    (0xaf, 4092),
                    (0xfe, 8),
                    (0xff, 0),
                    (0x7f, 0),
                    (0x00, -32124),
                ],
            ),
            (
                Law::A,
                &[
                    (0xd5, 8),
                    (0x55, -8),
                    (0xaa, 32256),
                    (0x2a, -32256),
                    (0xa5, 16896),
                    (0xc5, 264),
                    (0xf5, 528),
                ],
            ),
        ];
        for (law, pairs) in known {
            for (byte, value) in pairs {
                let mut pcm = vec![];
                decode(law, &[*byte], &mut pcm);
                assert_eq!(pcm, [*value as f32 / 32768.0], "{law:?} {byte:#x}");
            }
        }
    }

    #[test]
    fn every_code_comes_back() {
        let codes: Vec<u8> = (0..=255).collect();
        for law in [Law::Mu, Law::A] {
            let mut pcm = vec![];
            decode(law, &codes, &mut pcm);
            for (code, again) in codes.iter().zip(encode(law, &pcm)) {
                // µ-law has two codes for silence.
                let wanted = if law == Law::Mu && *code == 0x7f {
                    0xff
                } else {
                    *code
                };
                assert_eq!(again, wanted, "{law:?}");
            }
        }
    }

    #[test]
    fn the_code_of_a_sample_is_the_nearest_one_of_its_segment() {
        for law in [Law::Mu, Law::A] {
            for sample in -32767..=32767 {
                let wanted = sample as f32 / 32767.0;
                let mut pcm = vec![];
                decode(law, &encode(law, &[wanted]), &mut pcm);
                let step = (wanted.abs() / 16.0).max(16.0 / 32768.0);
                let error = (pcm[0] - wanted).abs();
                assert!(error <= step + 1e-4, "{law:?} {sample}: {error}");
            }
            for loud in [1.5, 1e6] {
                assert_eq!(encode(law, &[loud, -loud]), encode(law, &[1.0, -1.0]));
            }
        }
    }
}

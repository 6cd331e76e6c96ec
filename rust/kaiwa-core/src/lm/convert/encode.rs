//! Rows of floats to the bytes of a format, by the published rules (docs/spec/checkpoints.md 2, 4,
//! 5).

use half::{bf16, f16};

use super::target::Form;
use crate::lm::quantise::{q4_0_fitted, q8_0};

/// Bytes of one or several rows: numbers, scales, biases; what a form does not have stays empty.
#[derive(Default)]
pub(super) struct Encoded {
    pub parts: [Vec<u8>; 3],
}

/// Encodes whole rows of `cols` values.
pub(super) fn encode(form: Form, cols: usize, values: &[f32]) -> Encoded {
    let mut out = Encoded::default();
    let [data, scales, biases] = &mut out.parts;
    match form {
        Form::F32 => data.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Form::Bf16 => data.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        Form::Q8_0 => q8_0(values, data),
        Form::Q4_0 => q4_0_fitted(values, data),
        Form::Int8Rows => {
            for row in values.chunks_exact(cols) {
                // The rule starts from halves.
                let row: Vec<f32> = row.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
                let largest = row.iter().fold(0f32, |a, v| a.max(v.abs()));
                // Times the reciprocal, as the genuine tool's division comes out.
                let scale = if largest == 0.0 {
                    0.0
                } else {
                    127.0 * (1.0 / largest)
                };
                data.extend(
                    row.iter()
                        .map(|v| (v * scale).round_ties_even() as i8 as u8),
                );
                scales.extend(largest.to_le_bytes());
            }
        }
        Form::Affine { bits, group } => {
            for part in values.chunks_exact(group) {
                affine(bits, part, data, scales, biases);
            }
        }
    }
    out
}

/// One group of MLX's affine rule: the end of larger magnitude is met exactly.
fn affine(
    bits: u8,
    values: &[f32],
    data: &mut Vec<u8>,
    scales: &mut Vec<u8>,
    biases: &mut Vec<u8>,
) {
    let steps = ((1u32 << bits) - 1) as f32;
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scale = ((high - low) / steps).max(1e-7);
    let edge = if low.abs() > high.abs() {
        low
    } else {
        scale = -scale;
        high
    };
    let first = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if first != 0.0 {
        scale = edge / first;
        bias = edge;
    }
    let q = |v: &f32| ((v - bias) / scale).round_ties_even().clamp(0.0, steps) as u8;
    match bits {
        8 => data.extend(values.iter().map(q)),
        _ => data.extend(
            values
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[a, b]| q(a) | q(b) << 4),
        ),
    }
    scales.extend(bf16::from_f32(scale).to_le_bytes());
    biases.extend(bf16::from_f32(bias).to_le_bytes());
}

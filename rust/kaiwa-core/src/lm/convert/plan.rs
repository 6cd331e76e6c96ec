//! What a file of a format holds: names, shapes and places, before a byte is written.

use super::target::{Form, Target};
use crate::error::{Error, Result};
use crate::lm::LmConfig;
use crate::lm::checkpoint::layout;
use crate::lm::schema::{self, Kind};

/// One tensor of the model, and everywhere that its rows go.
pub(super) struct Item {
    /// Canonical name.
    pub source: String,
    pub rows: usize,
    pub cols: usize,
    pub form: Form,
    /// Where copies of it begin: for each part (numbers, scales, biases) an offset in the data.
    pub places: Vec<[u64; 3]>,
}

/// One tensor of the file.
pub(super) struct Stored {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub begin: u64,
    pub bytes: u64,
}

/// The whole file.
pub(super) struct Plan {
    pub items: Vec<Item>,
    pub stored: Vec<Stored>,
    pub data_bytes: u64,
}

/// Lays out the file.
pub(super) fn plan(config: &LmConfig, target: Target) -> Result<Plan> {
    let mut plan = Plan {
        items: Vec::new(),
        stored: Vec::new(),
        data_bytes: 0,
    };
    let depth_low_rank = config.depth.as_ref().is_some_and(|d| d.low_rank.is_some());
    for spec in schema::tensors(config) {
        let low_rank = depth_low_rank && spec.name.starts_with("depformer_");
        let form = target.form(&spec, low_rank)?;
        let written = layout::written(target.layout(), &spec.name, config);
        if written.is_empty() {
            return Err(Error::OptionValue {
                name: "format",
                got: format!("{:?}", target.name()),
                allowed: format!("pytorch-bf16: this format has no place for {}", spec.name),
            });
        }
        let each = form.row_bytes(spec.cols);
        let mut places = Vec::new();
        for one in written {
            let shape = match spec.kind {
                Kind::Vector => vector_shape(&spec.name, spec.cols, target),
                _ => vec![spec.rows * one.runs, spec.cols],
            };
            let mut place = [0; 3];
            for (part, (name, dtype, shape)) in
                parts(&one.name, form, shape, each).into_iter().enumerate()
            {
                let size = (spec.rows * each[part]) as u64;
                // Weight sets that are stacked in one tensor come one after the other.
                let begin = match plan.stored.iter().rev().find(|s| s.name == name) {
                    Some(there) => there.begin,
                    None => {
                        let begin = match target.gguf() {
                            true => plan.data_bytes.next_multiple_of(32),
                            false => plan.data_bytes,
                        };
                        let bytes = size * one.runs as u64;
                        plan.data_bytes = begin + bytes;
                        plan.stored.push(Stored {
                            name,
                            dtype,
                            shape,
                            begin,
                            bytes,
                        });
                        begin
                    }
                };
                place[part] = begin + one.run as u64 * size;
            }
            places.push(place);
        }
        plan.items.push(Item {
            source: spec.name,
            rows: spec.rows,
            cols: spec.cols,
            form,
            places,
        });
    }
    Ok(plan)
}

fn vector_shape(name: &str, cols: usize, target: Target) -> Vec<usize> {
    let wide = name.ends_with(".learnt_padding") || name.ends_with(".alpha") && !target.mlx();
    if wide { vec![1, 1, cols] } else { vec![cols] }
}

/// Names, types and shapes of the tensors that one matrix becomes.
fn parts(
    name: &str,
    form: Form,
    shape: Vec<usize>,
    each: [usize; 3],
) -> Vec<(String, &'static str, Vec<usize>)> {
    let rows = shape.first().copied().unwrap_or(0);
    let base = name.strip_suffix(".weight").unwrap_or(name);
    match form {
        Form::F32 => vec![(name.into(), "F32", shape)],
        Form::Bf16 => vec![(name.into(), "BF16", shape)],
        Form::Q8_0 => vec![(name.into(), "Q8_0", shape)],
        Form::Q4_0 => vec![(name.into(), "Q4_0", shape)],
        Form::Int8Rows => vec![
            (name.into(), "I8", shape),
            (format!("{name}_scb"), "F32", vec![rows]),
        ],
        Form::Affine { .. } => vec![
            (name.into(), "U32", vec![rows, each[0] / 4]),
            (format!("{base}.scales"), "BF16", vec![rows, each[1] / 2]),
            (format!("{base}.biases"), "BF16", vec![rows, each[2] / 2]),
        ],
    }
}

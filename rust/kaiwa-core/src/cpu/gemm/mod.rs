//! The matrix kernel: rows of activations times a packed matrix, with everything that follows a
//! linear or convolutional layer fused into the store.
//!
//! A causal convolution over time-major data is a matrix product whose input rows overlap, so
//! convolutions, transposed convolutions and linears are all this one kernel: only [`Rows`]
//! differs. Each output is one chain of multiply-adds over the inputs in order, then
//! `(sum + bias) * scale + residual`, then the activation.

mod activations;
mod dense;
mod job;
mod quantised;

pub(crate) use job::{Activation, Out, Residual, Rows};

use self::job::Job;
use super::pack::{Layout, Packed, WeightBits};
use super::pool;

/// Multiply-adds below which a task is not worth handing to another thread.
const TASK_WORK: usize = 1 << 17;

/// `out[m, n] = activation((a[m, :] . w[n, :] + bias[n]) * scale[n] + residual[m, n])` for
/// `rows` rows.
///
/// # Panics
/// If a slice is shorter than its [`Rows`] say: an error in the calling layer, not in any input.
pub(crate) fn matmul(w: &Packed, a: &[f32], a_rows: Rows, rows: usize, out: Out<'_>) {
    if rows == 0 {
        return;
    }
    let n = w.n;
    assert!(
        a_rows.end(rows, w.taps.span()) <= a.len(),
        "input rows exceed the input"
    );
    let nowhere = Rows {
        offset: 0,
        per_slot: 1,
        slot_stride: 0,
        row_stride: 0,
    };
    let (raw, raw_rows) = match out.raw {
        Some((slice, r)) => {
            assert!(r.end(rows, n) <= slice.len(), "raw rows exceed the output");
            (slice.as_mut_ptr(), r)
        }
        None => (std::ptr::null_mut(), nowhere),
    };
    let (activated, activated_rows) = match out.activated {
        Some((slice, r)) => {
            assert!(
                r.end(rows, n) <= slice.len(),
                "activated rows exceed the output"
            );
            (slice.as_mut_ptr(), r)
        }
        None => (std::ptr::null_mut(), nowhere),
    };
    let (residual, residual_rows) = match out.residual {
        Residual::None => (std::ptr::null(), nowhere),
        Residual::InPlace => (raw.cast_const(), raw_rows),
        Residual::Add(slice, r) => {
            assert!(
                r.end(rows, n) <= slice.len(),
                "residual rows exceed their slice"
            );
            (slice.as_ptr(), r)
        }
    };
    let scale = out.scale.map_or(std::ptr::null(), |s| {
        assert!(
            s.len() >= w.bias.len(),
            "scale is not padded to whole vectors"
        );
        s.as_ptr()
    });
    let job = Job {
        w,
        a: a.as_ptr(),
        a_rows,
        scale,
        residual,
        residual_rows,
        raw,
        raw_rows,
        activation: out.activation,
        activated,
        activated_rows,
    };

    // Cut by shape alone: first along the outputs, so that each weight is read by one thread;
    // along the rows only when there are too few panels.
    let (panels, columns) = match w.layout {
        Layout::Panels(width) => (n.div_ceil(width), n.next_multiple_of(width)),
        Layout::Rows => (1, 16),
    };
    let work = rows * w.taps.inputs() * columns;
    let tasks = (work / TASK_WORK).clamp(1, 64);
    let panel_tasks = tasks.min(panels);
    // Whole register tiles per task.
    let tile = match w.bits {
        WeightBits::Quant(_) => activations::height(rows),
        _ => 12,
    };
    let row_tasks = (tasks / panel_tasks).clamp(1, rows.div_ceil(tile));
    let rows_each = rows.div_ceil(row_tasks).next_multiple_of(tile).min(rows);
    let row_tasks = rows.div_ceil(rows_each);
    let rectangle = |t: usize| {
        let (p, r) = (t / row_tasks, t % row_tasks);
        let panel_range = (p * panels / panel_tasks, (p + 1) * panels / panel_tasks);
        (
            panel_range,
            (r * rows_each, ((r + 1) * rows_each).min(rows)),
        )
    };
    if let WeightBits::Quant(q) = w.bits {
        let row = |m: usize| a[a_rows.at(m)..].as_ptr();
        activations::with_activations(w.isa, w.taps.inputs(), q, rows, row, |x| {
            pool::for_each(panel_tasks * row_tasks, |t| {
                let (panel_range, row_range) = rectangle(t);
                // SAFETY: as below.
                unsafe { quantised::panels_times_rows(w.isa, &job, q, x, panel_range, row_range) }
            });
        });
        return;
    }
    pool::for_each(panel_tasks * row_tasks, |t| {
        let (panel_range, row_range) = rectangle(t);
        // SAFETY: the slices were checked above; tasks cover disjoint rectangles.
        unsafe {
            match w.layout {
                Layout::Rows => dense::thin(w.isa, &job, row_range),
                Layout::Panels(_) => dense::panels_times_rows(w.isa, &job, panel_range, row_range),
            }
        }
    });
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod quantised_tests;

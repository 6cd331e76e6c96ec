//! Rings of keys and values of the temporal transformer (docs/spec/moshi.md 3.6, 10.3).
//!
//! A ring is `[slots, kv heads, context, head dim]`, all of it from the start, so that a call that
//! was let in never needs more memory. The key of position `p` lies in column `p mod context`. A
//! step reads the columns that the run's longest conversation has filled, rounded up to a power of
//! two.

use candle_core::{DType, Device, Tensor};

use super::heads::Heads;
use super::internal_error;
use crate::error::Result;

/// Fewest columns that are read; few in the tests, whose contexts are short.
const LEAST: usize = if cfg!(test) { 4 } else { 64 };

/// Keys and values of one layer.
struct Ring {
    keys: Tensor,
    values: Tensor,
}

/// All layers' rings.
pub(super) struct Rings {
    layers: Vec<Ring>,
    heads: Heads,
    context: usize,
    kind: DType,
}

/// Neighbouring slots that are active together: rows `row..row + count` of a step are slots
/// `slot..slot + count`. Their part of a ring is a contiguous view, so nothing is copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    pub row: usize,
    pub slot: usize,
    pub count: usize,
}

impl Run {
    /// The runs of ascending, distinct slots.
    pub(super) fn all(slots: &[usize]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for (row, &slot) in slots.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.slot + run.count == slot => run.count += 1,
                _ => runs.push(Self {
                    row,
                    slot,
                    count: 1,
                }),
            }
        }
        runs
    }
}

impl Rings {
    pub(super) fn new(
        layers: usize,
        slots: usize,
        heads: Heads,
        context: usize,
        kind: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (slots, heads.kv, context, heads.dim);
        let ring = || Tensor::zeros(shape, kind, device);
        let layers = (0..layers).map(|_| {
            Ok(Ring {
                keys: ring()?,
                values: ring()?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            heads,
            context,
            kind,
        })
    }

    /// Column of a position.
    pub(super) fn column(&self, position: u64) -> usize {
        (position % self.context as u64) as usize
    }

    /// Columns to read where the furthest of some conversations is at a position: few different
    /// numbers, so that kernels and buffers are used again.
    pub(super) fn length(&self, position: u64) -> usize {
        let last = position.min(self.context.saturating_sub(1) as u64) as usize;
        (last + 1).next_power_of_two().max(LEAST).min(self.context)
    }

    /// Where the keys of a run's step go, for [`Rings::write`]: the column of every number,
    /// `[count * kv heads, 1, head dim]`.
    pub(super) fn places(&self, columns: &[usize], device: &Device) -> Result<Tensor> {
        let Heads { kv, dim, .. } = self.heads;
        let columns = columns.iter().flat_map(|c| (0..kv).map(|_| *c as u32));
        let columns: Vec<u32> = columns.collect();
        let count = columns.len();
        Ok(Tensor::from_vec(columns, (count, 1, 1), device)?
            .broadcast_as((count, 1, dim))?
            .contiguous()?)
    }

    /// Writes keys and values `[rows, kv heads, 1, head dim]` of a run's part of a step.
    pub(super) fn write(
        &self,
        layer: usize,
        run: Run,
        places: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<()> {
        let ring = self.layer(layer)?;
        for (tensor, new) in [(&ring.keys, k), (&ring.values, v)] {
            let new = new.narrow(0, run.row, run.count)?.to_dtype(self.kind)?;
            let (_, heads, columns, dim) = tensor.dims4()?;
            // A view of the ring. On CUDA a thread writes along the scattered axis, so that axis
            // is the one with a single step, and not the rows.
            tensor
                .narrow(0, run.slot, run.count)?
                .reshape((run.count * heads, columns, dim))?
                .scatter_set(places, &new.reshape(places.shape())?, 1)?;
        }
        Ok(())
    }

    /// The first `length` columns of a run of slots, `[count, kv heads, length, head dim]`.
    pub(super) fn read(&self, layer: usize, run: Run, length: usize) -> Result<[Tensor; 2]> {
        let ring = self.layer(layer)?;
        let part = |tensor: &Tensor| -> Result<Tensor> {
            let part = tensor
                .narrow(0, run.slot, run.count)?
                .narrow(2, 0, length)?;
            // Candle multiplies no bf16 matrices on the processor.
            Ok(if part.device().is_cpu() {
                part.to_dtype(DType::F32)?
            } else {
                part
            })
        };
        Ok([part(&ring.keys)?, part(&ring.values)?])
    }

    /// Empties a slot. Masked keys have weight zero, but zero times a stale infinity is not zero.
    pub(super) fn clear(&self, slot: usize) -> Result<()> {
        for tensor in self.layers.iter().flat_map(|r| [&r.keys, &r.values]) {
            let zeros = tensor.narrow(0, slot, 1)?.zeros_like()?;
            tensor.slice_set(&zeros, 0, slot)?;
        }
        Ok(())
    }

    /// Bytes of one slot of a model.
    pub(super) fn bytes_of_slot(layers: usize, heads: Heads, context: usize, kind: DType) -> usize {
        2 * layers * heads.kv * heads.dim * context * kind.size_in_bytes()
    }

    /// Bytes of one slot.
    pub(super) fn slot_bytes(&self) -> usize {
        Self::bytes_of_slot(self.layers.len(), self.heads, self.context, self.kind)
    }

    /// Copies a slot's keys and values over another's: for the tests' control.
    #[cfg(test)]
    pub(super) fn copy(&self, from: usize, to: usize) -> Result<()> {
        for tensor in self.layers.iter().flat_map(|r| [&r.keys, &r.values]) {
            tensor.slice_set(&tensor.narrow(0, from, 1)?.copy()?, 0, to)?;
        }
        Ok(())
    }

    fn layer(&self, layer: usize) -> Result<&Ring> {
        let ring = self.layers.get(layer);
        ring.ok_or_else(|| internal_error("this state belongs to another model"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn runs_cover_every_row_once() {
        let run = |row, slot, count| Run { row, slot, count };
        assert_eq!(Run::all(&[]), []);
        assert_eq!(Run::all(&[0, 1, 2]), [run(0, 0, 3)]);
        assert_eq!(
            Run::all(&[1, 2, 5, 7, 8]),
            [run(0, 1, 2), run(2, 5, 1), run(3, 7, 2)]
        );
    }

    #[test]
    fn a_step_reads_what_is_filled_and_a_little_more() {
        let heads = Heads::new(4, 2, 1);
        let rings = Rings::new(1, 1, heads, 100, DType::F32, &Device::Cpu).unwrap();
        let lengths = [0, 3, 4, 40, 63, 64, 99, 100, 1_000_000].map(|p| rings.length(p));
        assert_eq!(lengths, [4, 4, 8, 64, 64, 100, 100, 100, 100]);
        assert_eq!(rings.slot_bytes(), 2 * 4 * 100 * 4);
    }

    #[test]
    fn slots_have_only_their_own_keys() {
        let heads = Heads::new(4, 2, 1);
        let rings = Rings::new(1, 2, heads, 100, DType::F32, &Device::Cpu).unwrap();
        let new = Tensor::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
        let new = new.reshape((1, 2, 1, 2)).unwrap();
        let run = Run {
            row: 0,
            slot: 1,
            count: 1,
        };
        let places = rings.places(&[7], &Device::Cpu).unwrap();
        rings.write(0, run, &places, &new, &new).unwrap();
        let sum = |slot| {
            let [keys, _] = rings.read(0, Run { slot, ..run }, 100).unwrap();
            keys.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        for held in rings.read(0, run, 8).unwrap() {
            assert_eq!(held.dims(), [1, 2, 8, 2]);
            let held = held.narrow(2, 7, 1).unwrap().flatten_all().unwrap();
            assert_eq!(held.to_vec1::<f32>().unwrap(), [1., 2., 3., 4.]);
        }
        assert_eq!((sum(0), sum(1)), (0.0, 30.0));
        rings.clear(1).unwrap();
        assert_eq!(sum(1), 0.0);
    }
}

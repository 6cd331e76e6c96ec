//! Rings of keys and values of the temporal transformer (docs/spec/moshi.md 3.6, 10.3).
//!
//! A ring is `[slots, kv heads, capacity, head dim]`; the key of position `p` lies in column `p
//! mod context`. The capacity grows by doubling up to the context, so a short call costs little;
//! until it is the whole context, no position has wrapped. The slots share one capacity, that of
//! the longest call so far; a reset keeps it for the next call.

use candle_core::{DType, Device, Tensor};

use super::heads::Heads;
use super::internal_error;
use crate::error::Result;

/// Columns of a ring before its first growth; few in the tests, whose contexts are short.
const FIRST: usize = if cfg!(test) { 4 } else { 64 };

/// Keys and values of one layer.
struct Ring {
    keys: Tensor,
    values: Tensor,
}

/// All layers' rings.
pub(super) struct Rings {
    layers: Vec<Ring>,
    slots: usize,
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
        let shape = (slots, heads.kv, FIRST.min(context), heads.dim);
        let ring = || Tensor::zeros(shape, kind, device);
        let layers = (0..layers).map(|_| {
            Ok(Ring {
                keys: ring()?,
                values: ring()?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            slots,
            heads,
            context,
            kind,
        })
    }

    /// Columns that every layer has.
    pub(super) fn capacity(&self) -> usize {
        let columns = |ring: &Ring| {
            let columns = |t: &Tensor| t.dims().get(2).copied().unwrap_or(0);
            columns(&ring.keys).min(columns(&ring.values))
        };
        self.layers.iter().map(columns).min().unwrap_or(0)
    }

    /// Column of a position.
    pub(super) fn column(&self, position: u64) -> usize {
        (position % self.context as u64) as usize
    }

    /// Furthest column in use at a position.
    pub(super) fn furthest(&self, position: u64) -> usize {
        position.min(self.context.saturating_sub(1) as u64) as usize
    }

    /// Makes room for a column. After an error some layers may have grown and others not: all are
    /// as valid as before, and the next call goes on.
    pub(super) fn reserve(&mut self, column: usize) -> Result<()> {
        let mut wanted = self.capacity().max(1);
        while wanted <= column {
            wanted *= 2;
        }
        let wanted = wanted.min(self.context);
        for ring in &mut self.layers {
            for tensor in [&mut ring.keys, &mut ring.values] {
                if tensor.dim(2)? < wanted {
                    let shape = (self.slots, self.heads.kv, wanted, self.heads.dim);
                    let grown = Tensor::zeros(shape, self.kind, tensor.device())?;
                    grown.slice_set(tensor, 2, 0)?;
                    *tensor = grown;
                }
            }
        }
        Ok(())
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

    /// Keys and values of a run of slots, `[count, kv heads, capacity, head dim]`.
    pub(super) fn read(&self, layer: usize, run: Run) -> Result<[Tensor; 2]> {
        let ring = self.layer(layer)?;
        let part = |tensor: &Tensor| -> Result<Tensor> {
            let part = tensor.narrow(0, run.slot, run.count)?;
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

    /// Bytes of one slot.
    pub(super) fn slot_bytes(&self) -> usize {
        let tensors = self.layers.iter().flat_map(|r| [&r.keys, &r.values]);
        let all: usize = tensors
            .map(|t| t.elem_count() * t.dtype().size_in_bytes())
            .sum();
        all / self.slots.max(1)
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
    fn growing_keeps_what_is_held_and_stops_at_the_context() {
        let heads = Heads::new(4, 2, 1);
        let mut rings = Rings::new(1, 2, heads, 100, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(rings.capacity(), FIRST);
        let before = rings.slot_bytes();
        let new = Tensor::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
        let new = new.reshape((1, 2, 1, 2)).unwrap();
        let last = FIRST - 1;
        let run = Run {
            row: 0,
            slot: 1,
            count: 1,
        };
        let places = rings.places(&[last], &Device::Cpu).unwrap();
        rings.write(0, run, &places, &new, &new).unwrap();
        rings.reserve(last).unwrap();
        assert_eq!(rings.capacity(), FIRST);
        rings.reserve(FIRST).unwrap();
        assert_eq!(rings.capacity(), 2 * FIRST);
        rings.reserve(99).unwrap();
        assert_eq!(rings.capacity(), 100);
        assert_eq!(rings.slot_bytes(), before * 100 / FIRST);
        for held in rings.read(0, run).unwrap() {
            let held = held.narrow(2, last, 1).unwrap().flatten_all().unwrap();
            assert_eq!(held.to_vec1::<f32>().unwrap(), [1., 2., 3., 4.]);
        }
        // The other slot has only its own zeros.
        let run = Run { slot: 0, ..run };
        let [other, _] = rings.read(0, run).unwrap();
        let sum = other.sqr().unwrap().sum_all().unwrap();
        assert_eq!(sum.to_scalar::<f32>().unwrap(), 0.0);
        rings.clear(1).unwrap();
        let [mine, _] = rings.read(0, Run { slot: 1, ..run }).unwrap();
        let sum = mine.sqr().unwrap().sum_all().unwrap();
        assert_eq!(sum.to_scalar::<f32>().unwrap(), 0.0);
    }
}

//! What slots carry from one call to the next on the device (docs/spec/mimi.md 5.1 and 5.4).
//!
//! Every tensor has a leading slots axis. Positions live on the host: they decide masks and ring
//! rows, and a slot whose position is 0 is one that has not heard anything yet.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Shape of one direction's state.
pub(super) struct StateShape {
    /// `[channels, columns]` of each convolution's history.
    pub carries: Vec<[usize; 2]>,
    /// Attention layers, each with rings for keys and values.
    pub layers: usize,
    /// Rows of one slot in a ring: heads * (context + 1).
    pub ring_rows: usize,
    /// Width of a row: one head.
    pub head_dim: usize,
}

impl StateShape {
    /// Bytes of one slot.
    pub(super) fn slot_bytes(&self) -> usize {
        let carries: usize = self.carries.iter().map(|[c, n]| c * n).sum();
        let rings = 2 * self.layers * self.ring_rows * self.head_dim;
        4 * (carries + rings) + size_of::<u64>()
    }
}

/// State of one direction of all slots; fits only the model and direction whose shape it has.
pub(super) struct DirectionState {
    /// Latent steps each slot has seen.
    pub(super) positions: Vec<u64>,
    /// `[slots, channels, columns]` each.
    pub(super) carries: Vec<Tensor>,
    /// `[slots * heads * (context + 1), head_dim]` each; the last row of each head takes what
    /// must not be kept. Keys and values of each layer.
    pub(super) rings: Vec<[Tensor; 2]>,
    ring_rows: usize,
}

impl DirectionState {
    pub(super) fn new(shape: &StateShape, slots: usize, device: &Device) -> Result<Self> {
        let carries = shape
            .carries
            .iter()
            .map(|[c, n]| Ok(Tensor::zeros((slots, *c, *n), DType::F32, device)?));
        let rows = slots
            .checked_mul(shape.ring_rows)
            .filter(|rows| *rows <= u32::MAX as usize);
        let rows = rows.ok_or_else(|| Error::OptionValue {
            name: "slots",
            got: slots.to_string(),
            allowed: format!(
                "at most {} for this model",
                u32::MAX as usize / shape.ring_rows
            ),
        })?;
        let ring = || Tensor::zeros((rows, shape.head_dim), DType::F32, device);
        Ok(Self {
            positions: vec![0; slots],
            carries: carries.collect::<Result<_>>()?,
            rings: (0..shape.layers)
                .map(|_| Ok([ring()?, ring()?]))
                .collect::<Result<_>>()?,
            ring_rows: shape.ring_rows,
        })
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.positions.len()
    }

    /// Bytes of all slots.
    pub(super) fn bytes(&self) -> usize {
        let floats: usize = self
            .carries
            .iter()
            .chain(self.rings.iter().flatten())
            .map(Tensor::elem_count)
            .sum();
        4 * floats + size_of::<u64>() * self.positions.len()
    }

    /// One convolution's history.
    pub(super) fn carry(&mut self, index: usize) -> Result<&mut Tensor> {
        let foreign = || candle_core::Error::Msg("this state belongs to another model".into());
        Ok(self.carries.get_mut(index).ok_or_else(foreign)?)
    }

    /// Moves the slots whose flag is set on by `steps` latent steps.
    pub(super) fn advance(&mut self, active: &[bool], steps: usize) {
        let positions = self.positions.iter_mut().zip(active);
        for (position, _) in positions.filter(|(_, on)| **on) {
            *position += steps as u64;
        }
    }

    /// Returns one slot to its beginning; the others are not touched.
    ///
    /// # Errors
    /// [`Error::SlotIndex`] for a slot that does not exist, [`Error::Backend`].
    pub(super) fn reset(&mut self, slot: usize) -> Result<()> {
        let slots = self.slots();
        let Some(position) = self.positions.get_mut(slot) else {
            return Err(Error::SlotIndex { got: slot, slots });
        };
        *position = 0;
        for carry in &self.carries {
            let zeros = carry.narrow(0, slot, 1)?.zeros_like()?;
            carry.slice_set(&zeros, 0, slot)?;
        }
        // Masked keys have weight zero, but zero times a stale infinity is not zero.
        for ring in self.rings.iter().flatten() {
            let (_, width) = ring.dims2()?;
            let zeros = Tensor::zeros((self.ring_rows, width), DType::F32, ring.device())?;
            ring.slice_set(&zeros, 0, slot * self.ring_rows)?;
        }
        Ok(())
    }
}

/// Which slots take part in a step, as masks on the device.
pub(super) struct Masks {
    /// `[slots, 1, 1]`, 1 for slots that keep what they compute; `None` if all do.
    active: Option<Tensor>,
    /// `[slots, 1, 1]`, 1 for slots that have not heard anything yet; `None` if there are none.
    fresh: Option<Tensor>,
}

impl Masks {
    pub(super) fn new(state: &DirectionState, active: &[bool], device: &Device) -> Result<Self> {
        let mask = |flags: Vec<u8>| Tensor::from_vec(flags, (active.len(), 1, 1), device);
        let on: Vec<u8> = active.iter().map(|on| u8::from(*on)).collect();
        let fresh: Vec<u8> = state.positions.iter().map(|p| u8::from(*p == 0)).collect();
        Ok(Self {
            active: if on.contains(&0) {
                Some(mask(on)?)
            } else {
                None
            },
            fresh: if fresh.contains(&1) {
                Some(mask(fresh)?)
            } else {
                None
            },
        })
    }

    /// `new` for active slots, `old` for paused ones; both `[slots, channels, columns]`.
    pub(super) fn keep(&self, new: &Tensor, old: &Tensor) -> Result<Tensor> {
        match &self.active {
            None => Ok(new.contiguous()?),
            Some(mask) => Ok(mask.broadcast_as(new.shape())?.where_cond(new, old)?),
        }
    }

    /// `first` for slots without a past, `old` for the others.
    pub(super) fn begin(&self, first: &Tensor, old: &Tensor) -> Result<Tensor> {
        match &self.fresh {
            None => Ok(old.clone()),
            Some(mask) => Ok(mask.broadcast_as(old.shape())?.where_cond(first, old)?),
        }
    }
}

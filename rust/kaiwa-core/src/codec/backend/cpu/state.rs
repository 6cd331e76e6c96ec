//! What a slot carries from one step to the next (docs/spec/mimi.md 5.1).

/// One slot in one direction.
#[derive(Clone)]
pub(super) struct SlotState {
    /// Latent steps since the start.
    pub pos: u64,
    /// Last input columns of every convolution.
    pub history: Vec<f32>,
    /// Keys and values of every attention layer.
    pub rings: Vec<f32>,
}

impl SlotState {
    /// True until the first step: padding that repeats the first column looks at this.
    pub(super) fn fresh(&self) -> bool {
        self.pos == 0
    }

    /// Moves the given slots on by `steps` latent steps.
    pub(super) fn advance(slots: &mut [&mut Self], steps: usize) {
        for slot in slots {
            slot.pos += steps as u64;
        }
    }
}

/// All slots of a stream in one direction.
pub(super) struct DirectionState {
    pub(super) slots: Vec<SlotState>,
}

impl DirectionState {
    /// `slots` fresh slots with `history` and `rings` floats each. Fresh memory is only touched
    /// (and so only takes room) as a stream grows.
    pub(super) fn new(slots: usize, history: usize, rings: usize) -> Self {
        let fresh = || SlotState {
            pos: 0,
            history: vec![0.0; history],
            rings: vec![0.0; rings],
        };
        Self {
            slots: (0..slots).map(|_| fresh()).collect(),
        }
    }

    /// Bytes of one direction of all slots.
    pub(super) fn bytes(&self) -> usize {
        let one = |s: &SlotState| size_of::<u64>() + 4 * (s.history.len() + s.rings.len());
        self.slots.iter().map(one).sum()
    }

    /// Returns a slot to its beginning.
    pub(super) fn reset(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot).filter(|s| s.pos > 0) {
            // Masked keys have weight zero, but zero times a stale infinity is not zero.
            slot.rings.fill(0.0);
            slot.history.fill(0.0);
            slot.pos = 0;
        }
    }

    /// The given slots, which are ascending and distinct, in order.
    pub(super) fn rows(&mut self, slots: &[usize]) -> Vec<&mut SlotState> {
        let mut wanted = slots.iter().peekable();
        self.slots
            .iter_mut()
            .enumerate()
            .filter(|(slot, _)| wanted.next_if(|next| *next == slot).is_some())
            .map(|(_, state)| state)
            .collect()
    }
}

//! Which keys a step sees, where its own keys are kept, and how they are rotated: everything
//! about attention that depends on positions, worked out on the host (docs/spec/mimi.md 3.1).
//!
//! A ring holds `context` rows per slot and head, and one more that takes what must not be kept.
//! A step attends to the rings as they were before the call and to the keys of the call itself,
//! and only then are the call's keys written; so any number of frames per call gives the same
//! result, and both window rules are nothing but masks.

use candle_core::{Device, Tensor};

use super::state::DirectionState;
use crate::codec::config::TransformerConfig;
use crate::codec::window::Window;
use crate::error::Result;

/// Widths and rules of attention.
pub(super) struct Attention {
    pub heads: usize,
    pub head_dim: usize,
    pub context: usize,
    steps_per_frame: usize,
    /// Radians per step of each rotated pair, `[head_dim / 2]`.
    speeds: Vec<f64>,
}

/// What one call needs at every layer.
pub(super) struct Plan {
    /// 0 or minus infinity, `[slots, 1, steps, context + 1 + steps]`.
    pub mask: Tensor,
    /// `[slots, steps, head_dim / 2]`.
    pub cos: Tensor,
    /// `[slots, steps, head_dim / 2]`.
    pub sin: Tensor,
    /// Row of each key in its head's ring, `[slots * heads, steps, head_dim]` (equal along the last
    /// axis).
    pub rows: Tensor,
}

impl Attention {
    pub(super) fn new(config: &TransformerConfig, steps_per_frame: usize) -> Self {
        let head_dim = config.head_dim();
        let pairs = 0..head_dim / 2;
        let exponent = |i: usize| -2.0 * i as f64 / head_dim as f64;
        Self {
            heads: config.num_heads,
            head_dim,
            context: config.context,
            steps_per_frame,
            speeds: pairs.map(|i| config.max_period.powf(exponent(i))).collect(),
        }
    }

    /// Rows of one slot in a ring.
    pub(super) fn ring_rows(&self) -> usize {
        self.heads * (self.context + 1)
    }

    /// Works out a call of `steps` latent steps.
    pub(super) fn plan(
        &self,
        state: &DirectionState,
        active: &[bool],
        steps: usize,
        window: Window,
        device: &Device,
    ) -> Result<Plan> {
        let slots = state.slots();
        let columns = self.context + 1 + steps;
        let mut mask = Vec::with_capacity(slots * steps * columns);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut rows = Vec::with_capacity(slots * self.heads * steps);
        for (&start, &on) in state.positions.iter().zip(active) {
            for step in 0..steps as u64 {
                let position = start + step;
                let visible = self.window(position, window)..=position;
                let see = |key: u64| {
                    if visible.contains(&key) {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                };
                for row in 0..self.context as u64 {
                    mask.push(self.held(row, start).map_or(f32::NEG_INFINITY, see));
                }
                mask.push(f32::NEG_INFINITY);
                mask.extend((0..steps as u64).map(|other| see(start + other)));
                for speed in &self.speeds {
                    // In f64: after hours of audio an f32 angle is off by whole steps.
                    let (s, c) = (position as f64 * speed).sin_cos();
                    cos.push(c as f32);
                    sin.push(s as f32);
                }
            }
            for _ in 0..self.heads {
                for step in 0..steps {
                    // Rows must be distinct: of a call longer than the ring only the end stays.
                    let stays = on && step + self.context >= steps;
                    let row = (start + step as u64) % self.context as u64;
                    rows.push(if stays {
                        row as u32
                    } else {
                        self.context as u32
                    });
                }
            }
        }
        let table = (slots, steps, self.speeds.len());
        let rings = slots * self.heads;
        let rows = Tensor::from_vec(rows, (rings, steps, 1), device)?;
        Ok(Plan {
            mask: Tensor::from_vec(mask, (slots, 1, steps, columns), device)?,
            cos: Tensor::from_vec(cos, table, device)?,
            sin: Tensor::from_vec(sin, table, device)?,
            rows: rows
                .broadcast_as((rings, steps, self.head_dim))?
                .contiguous()?,
        })
    }

    /// First key that the step at `position` sees.
    fn window(&self, position: u64, window: Window) -> u64 {
        let context = self.context as u64;
        match window {
            Window::Whole => (position + 1).saturating_sub(context),
            Window::Streaming => {
                let per_frame = self.steps_per_frame as u64;
                let frame = position - position % per_frame;
                (frame + per_frame).saturating_sub(context)
            }
        }
    }

    /// Position of the key that ring row `row` holds before the step at `start`, if any.
    fn held(&self, row: u64, start: u64) -> Option<u64> {
        let last = start.checked_sub(1)?;
        let context = self.context as u64;
        let age = (last % context + context - row) % context;
        last.checked_sub(age)
    }
}

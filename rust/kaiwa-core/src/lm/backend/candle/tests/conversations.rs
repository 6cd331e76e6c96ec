//! Conversations: the delays of docs/spec/moshi.md 2.6, greedy choices.

use std::sync::Arc;

use super::super::CandleLm;
use super::super::state::CandleState;
use crate::lm::backend::host_sampled::HostSampled;
use crate::lm::backend::{Draw, Frame, LmState};
use crate::lm::{LmConfig, Sampling};

/// What one slot chose at one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Chosen {
    pub text: i32,
    pub audio: Vec<i32>,
    pub text_logits: Vec<f32>,
    pub audio_logits: Vec<f32>,
    /// The un-delayed column, once there is one.
    pub out: Option<Vec<i32>>,
}

/// Token columns of one slot.
struct Columns {
    cells: Vec<Vec<i32>>,
    step: usize,
}

/// Slots with their columns.
pub(super) struct Conversations {
    config: LmConfig,
    columns: Vec<Columns>,
    pub state: HostSampled<CandleState>,
}

impl Conversations {
    pub(super) fn new(model: &Arc<CandleLm>, slots: usize) -> Self {
        let config = model.config.clone();
        let state = CandleState::new(Arc::clone(model), slots).unwrap();
        let state = HostSampled::new(state, &config);
        let columns = || Columns {
            cells: vec![vec![-2; config.max_delay() + 2]; config.n_q + 1],
            step: 0,
        };
        Self {
            columns: (0..slots).map(|_| columns()).collect(),
            config,
            state,
        }
    }

    /// Inputs of a slot's next step, its user's codes written first.
    fn input(&mut self, slot: usize, user: &[i32]) -> Vec<i32> {
        let config = &self.config;
        let Columns { cells, step } = &mut self.columns[slot];
        let width = cells[0].len();
        for (i, code) in user.iter().enumerate() {
            let row = config.spoken + 1 + i;
            cells[row][(*step + config.delays[row]) % width] = *code;
        }
        let initial = |row: usize| match row {
            0 => config.text_card as i32,
            _ => config.card as i32,
        };
        (0..=config.n_q)
            .map(|row| {
                if *step <= config.delays[row] {
                    initial(row)
                } else {
                    cells[row][*step % width]
                }
            })
            .collect()
    }

    /// Writes a slot's choices; the column that is complete now.
    fn choose(&mut self, slot: usize, text: i32, audio: &[i32]) -> Option<Vec<i32>> {
        let config = &self.config;
        let Columns { cells, step } = &mut self.columns[slot];
        let width = cells[0].len();
        *step += 1;
        for (row, token) in std::iter::once(&text).chain(audio).enumerate() {
            cells[row][*step % width] = *token;
        }
        let most = config.max_delay();
        (*step > most).then(|| {
            let cell = |row: usize| cells[row][(*step - most + config.delays[row]) % width];
            (0..=config.spoken).map(cell).collect()
        })
    }

    /// One step of some slots, each with a column of its user's codes.
    pub(super) fn step(&mut self, slots: &[usize], users: &[Vec<i32>]) -> Vec<Chosen> {
        let inputs = slots.iter().zip(users);
        let inputs: Vec<i32> = inputs.flat_map(|(s, u)| self.input(*s, u)).collect();
        let draws = vec![GREEDY; slots.len()];
        let frame = frame(slots, &inputs, &draws);
        let made = self.state.step(&frame).unwrap();
        let logits = self.state.logits().unwrap();
        assert!(made.finite.iter().all(|finite| *finite));
        let (spoken, card) = (self.config.spoken, self.config.card);
        let text = logits.text.chunks(self.config.text_card_out);
        let audio = logits.audio.chunks(spoken * card);
        let codes = made.audio.chunks(spoken);
        let rows = made.text.iter().zip(codes).zip(text.zip(audio));
        let mut chosen: Vec<Chosen> = rows
            .map(|((text, codes), (text_logits, audio_logits))| Chosen {
                text: *text,
                audio: codes.to_vec(),
                text_logits: text_logits.to_vec(),
                audio_logits: audio_logits.to_vec(),
                out: None,
            })
            .collect();
        for made in &chosen {
            assert_eq!(made.text, best(&made.text_logits));
            let best: Vec<i32> = made.audio_logits.chunks(card).map(best).collect();
            assert_eq!(made.audio, best);
        }
        for (slot, made) in slots.iter().zip(&mut chosen) {
            made.out = self.choose(*slot, made.text, &made.audio);
        }
        chosen
    }

    /// Returns a slot to its beginning.
    pub(super) fn reset(&mut self, slot: usize) {
        self.columns[slot].step = 0;
        self.state.reset(slot).unwrap();
    }
}

/// Always the likeliest.
const GREEDY: Draw = Draw {
    sampling: Sampling {
        temp: 0.0,
        temp_text: 0.0,
        top_k: 0,
        top_k_text: 0,
    },
    seed: 0,
    step: 0,
};

/// A frame without conditions and without forced tokens.
fn frame<'a>(slots: &'a [usize], tokens: &'a [i32], draws: &'a [Draw]) -> Frame<'a> {
    Frame {
        slots,
        tokens,
        conditions: &[],
        draws,
        force_text: &[],
        force_audio: &[],
    }
}

/// Index of the largest.
fn best(logits: &[f32]) -> i32 {
    let (index, _) = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap();
    index as i32
}

/// A whole conversation alone in its state.
pub(super) fn solo(model: &Arc<CandleLm>, users: &[Vec<i32>]) -> Vec<Chosen> {
    let mut conversation = Conversations::new(model, 1);
    users
        .iter()
        .map(|user| {
            conversation
                .step(&[0], std::slice::from_ref(user))
                .remove(0)
        })
        .collect()
}

/// Tokens only.
pub(super) fn tokens(made: &[Chosen]) -> Vec<(i32, Vec<i32>)> {
    made.iter().map(|c| (c.text, c.audio.clone())).collect()
}

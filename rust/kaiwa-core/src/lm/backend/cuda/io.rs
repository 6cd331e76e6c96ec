//! The block of bytes that goes to the device before a frame, and the one that comes back: arrays of
//! a number of rows, one after the other.

use crate::cuda::args::Pointer;
use crate::cuda::executor::Memory;
use crate::lm::LmConfig;
use crate::lm::backend::{Draw, Frame, FrameTokens};

/// Arrays begin at multiples of this.
const ALIGNMENT: usize = 16;

/// Places of the arrays of a frame of `rows` rows, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    rows: usize,
    columns: usize,
    spoken: usize,
    /// Width of a condition; 0 if the model has none.
    condition: usize,
    positions: usize,
    seeds: usize,
    steps: usize,
    slots: usize,
    tokens: usize,
    force_text: usize,
    force_audio: usize,
    temp_text: usize,
    temp: usize,
    top_k_text: usize,
    top_k: usize,
    conditions: usize,
    input: usize,
    text: usize,
    audio: usize,
    finite: usize,
    output: usize,
}

/// What the draws of one kind need of a frame's input.
pub(super) struct Draws {
    pub slots: Pointer,
    pub temperatures: Pointer,
    pub top_ks: Pointer,
    pub seeds: Pointer,
    pub steps: Pointer,
    pub forced: Pointer,
    pub finite: Pointer,
}

impl Layout {
    pub(super) fn new(config: &LmConfig, rows: usize) -> Self {
        let (columns, spoken) = (config.n_q + 1, config.spoken);
        let condition = if config.conditions.is_empty() {
            0
        } else {
            config.dim
        };
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            at
        };
        let positions = place(8 * rows);
        let seeds = place(8 * rows);
        let steps = place(8 * rows);
        let slots = place(4 * rows);
        let tokens = place(4 * rows * columns);
        let force_text = place(4 * rows);
        let force_audio = place(4 * rows * spoken);
        let temp_text = place(4 * rows);
        let temp = place(4 * rows);
        let top_k_text = place(4 * rows);
        let top_k = place(4 * rows);
        let conditions = place(4 * rows * condition);
        let input = place(0);
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            at
        };
        let text = place(4 * rows);
        let audio = place(4 * rows * spoken);
        let finite = place(4 * rows);
        let output = place(0);
        Self {
            rows,
            columns,
            spoken,
            condition,
            positions,
            seeds,
            steps,
            slots,
            tokens,
            force_text,
            force_audio,
            temp_text,
            temp,
            top_k_text,
            top_k,
            conditions,
            input,
            text,
            audio,
            finite,
            output,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the input.
    pub(super) fn input_bytes(&self) -> usize {
        self.input
    }

    /// Bytes of the output.
    pub(super) fn output_bytes(&self) -> usize {
        self.output
    }

    /// The input of a frame whose rows are all none.
    pub(super) fn idle(&self) -> Vec<u8> {
        let mut input = Vec::new();
        let none = Frame {
            slots: &[],
            tokens: &[],
            conditions: &[],
            draws: &[],
            force_text: &[],
            force_audio: &[],
        };
        self.write(&none, &[], &mut input);
        input
    }

    /// Writes a frame, filled up with rows that are none. `positions` are those of all slots.
    pub(super) fn write(&self, frame: &Frame<'_>, positions: &[u64], to: &mut Vec<u8>) {
        to.clear();
        to.resize(self.input, 0);
        let rows = frame.slots.len();
        let draws = |of: fn(&Draw) -> [u8; 4]| frame.draws.iter().map(of);
        let none = (-1i32).to_le_bytes();
        // Rows that are none, and what is not forced.
        for (at, count) in [
            (self.slots, self.rows),
            (self.tokens, self.rows * self.columns),
            (self.force_text, self.rows),
            (self.force_audio, self.rows * self.spoken),
        ] {
            to[at..at + 4 * count].as_chunks_mut::<4>().0.fill(none);
        }
        let ints = |values: &[i32]| values.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let slots = frame.slots.iter().map(|slot| (*slot as i32).to_le_bytes());
        put(to, self.slots, slots);
        put(to, self.tokens, ints(frame.tokens));
        put(to, self.force_text, ints(frame.force_text));
        put(to, self.force_audio, ints(frame.force_audio));
        put(
            to,
            self.temp_text,
            draws(|d| d.sampling.temp_text.to_le_bytes()),
        );
        put(to, self.temp, draws(|d| d.sampling.temp.to_le_bytes()));
        put(to, self.top_k_text, draws(|d| top_k(d.sampling.top_k_text)));
        put(to, self.top_k, draws(|d| top_k(d.sampling.top_k)));
        if self.condition > 0 {
            put(
                to,
                self.conditions,
                frame.conditions.iter().map(|v| v.to_le_bytes()),
            );
        }
        let at = frame
            .slots
            .iter()
            .map(|slot| positions[*slot].to_le_bytes());
        put(to, self.positions, at);
        put(
            to,
            self.seeds,
            frame.draws.iter().map(|d| d.seed.to_le_bytes()),
        );
        put(
            to,
            self.steps,
            frame.draws.iter().map(|d| d.step.to_le_bytes()),
        );
        debug_assert!(rows <= self.rows);
    }

    /// The tokens of the first `rows` rows.
    pub(super) fn read(&self, output: &[u8], rows: usize) -> FrameTokens {
        let ints = |at: usize, count: usize| {
            let words = output[at..at + 4 * count].as_chunks::<4>().0;
            words.iter().map(|w| i32::from_le_bytes(*w))
        };
        FrameTokens {
            text: ints(self.text, rows).collect(),
            audio: ints(self.audio, rows * self.spoken).collect(),
            heads: Vec::new(),
            finite: ints(self.finite, rows).map(|f| f != 0).collect(),
        }
    }

    pub(super) fn slots(&self, input: &Memory) -> Pointer {
        input.at(self.slots)
    }

    pub(super) fn positions(&self, input: &Memory) -> Pointer {
        input.at(self.positions)
    }

    /// `[rows, columns]`.
    pub(super) fn tokens(&self, input: &Memory) -> Pointer {
        input.at(self.tokens)
    }

    /// Null if the model has none.
    pub(super) fn conditions(&self, input: &Memory) -> Pointer {
        match self.condition {
            0 => Pointer::NULL,
            _ => input.at(self.conditions),
        }
    }

    /// Where the text goes, `[rows]`.
    pub(super) fn text(&self, output: &Memory) -> Pointer {
        output.at(self.text)
    }

    /// Where codebook `k` goes: the first row's, in `[rows, spoken]`.
    pub(super) fn audio(&self, output: &Memory, k: usize) -> Pointer {
        output.at(self.audio + 4 * k)
    }

    pub(super) fn text_draws(&self, input: &Memory, output: &Memory) -> Draws {
        Draws {
            temperatures: input.at(self.temp_text),
            top_ks: input.at(self.top_k_text),
            forced: input.at(self.force_text),
            ..self.draws(input, output)
        }
    }

    pub(super) fn audio_draws(&self, input: &Memory, output: &Memory, k: usize) -> Draws {
        Draws {
            forced: input.at(self.force_audio + 4 * k),
            ..self.draws(input, output)
        }
    }

    fn draws(&self, input: &Memory, output: &Memory) -> Draws {
        Draws {
            slots: input.at(self.slots),
            temperatures: input.at(self.temp),
            top_ks: input.at(self.top_k),
            seeds: input.at(self.seeds),
            steps: input.at(self.steps),
            forced: Pointer::NULL,
            finite: output.at(self.finite),
        }
    }
}

/// Candidates, of which no model has so many as not to fit.
fn top_k(candidates: usize) -> [u8; 4] {
    i32::try_from(candidates).unwrap_or(i32::MAX).to_le_bytes()
}

fn put<const N: usize>(to: &mut [u8], at: usize, values: impl IntoIterator<Item = [u8; N]>) {
    for (to, value) in to[at..].chunks_exact_mut(N).zip(values) {
        to.copy_from_slice(&value);
    }
}

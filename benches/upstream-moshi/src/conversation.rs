//! Steps of a conversation: which tokens go into which step (docs/spec/moshi.md 2.4).

use candle::Result;
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::model::Model;
use crate::sizes::Sizes;

/// What the model chose at a step.
pub struct Frame {
    /// Text token.
    pub text: u32,
    /// Codes, before un-delaying.
    pub audio: Vec<u32>,
}

/// One conversation, greedy.
pub struct Conversation<'a> {
    sizes: &'a Sizes,
    model: &'a mut Model,
    /// What the user said, one list of codes a step.
    user: Vec<Vec<u32>>,
    last: Option<Frame>,
    pick: LogitsProcessor,
}

impl<'a> Conversation<'a> {
    /// At its beginning.
    pub fn new(sizes: &'a Sizes, model: &'a mut Model) -> Self {
        let pick = LogitsProcessor::from_sampling(0, Sampling::ArgMax);
        Self {
            sizes,
            model,
            user: Vec::new(),
            last: None,
            pick,
        }
    }

    /// One frame; `user` has a code per supplied codebook.
    pub fn step(&mut self, user: Vec<u32>) -> Result<&Frame> {
        let sizes = self.sizes;
        let step = self.user.len();
        self.user.push(user);
        let audio: Vec<u32> = (0..sizes.n_q)
            .map(|row| {
                let delay = sizes.delays[row + 1];
                match &self.last {
                    Some(last) if step > delay && row < sizes.dep_q => last.audio[row],
                    Some(_) if step > delay => self.user[step - delay][row - sizes.dep_q],
                    _ => sizes.card,
                }
            })
            .collect();
        let text = self.last.as_ref().map_or(sizes.text_card, |last| last.text);
        let (logits, z) = self.model.temporal(text, &audio)?;
        let text = self.pick.sample(&logits)?;
        let audio = self.model.depth(&z, text, &mut self.pick)?;
        Ok(self.last.insert(Frame { text, audio }))
    }
}

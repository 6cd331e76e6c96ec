//! What a step does: frames in (audio or text), frames out (audio, text, pauses).
//!
//! A family of models is a file here: [`Duplex`] hears and speaks; [`Transcriber`] hears and writes;
//! [`Echo`] says back what it hears. A model that synthesises takes text and gives audio. The engine
//! knows none of them, only [`Pipeline`].

mod duplex;
mod echo;
mod parts;
mod transcriber;

pub use self::duplex::{Duplex, DuplexStep};
pub use self::echo::Echo;
pub use self::transcriber::Transcriber;
use crate::codec::Mimi;
use crate::error::Result;
use crate::lm::{Moshi, Sampling};

/// Samples of a frame of audio: 80 ms at 24 kHz.
pub const FRAME_SIZE: usize = 1920;

/// Frames in a second.
pub const FRAME_RATE: f64 = 12.5;

/// The fault of a slot whose logits are no numbers.
const NOT_FINITE: &str = "the model's output is not finite; the weights may be damaged";

/// The pipeline that a model is for: one that does not speak transcribes.
///
/// # Errors
/// Those of [`Duplex::new`] and [`Transcriber::new`].
pub fn of_model(mimi: Mimi, moshi: Moshi, slots: usize) -> Result<Box<dyn Pipeline>> {
    Ok(match moshi.config().spoken {
        0 => Box::new(Transcriber::new(mimi, moshi, slots)?),
        _ => Box::new(Duplex::new(mimi, moshi, slots)?),
    })
}

/// How a conversation begins.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Start {
    /// Seed of its sampling.
    pub seed: u64,
    /// Its sampling settings; the model's own if `None`.
    pub sampling: Option<Sampling>,
}

/// The kind of input that a pipeline takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Frames of [`FRAME_SIZE`] samples.
    Audio,
    /// Frames of any number of text tokens.
    Text,
}

/// What one slot gives a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FrameIn<'a> {
    /// [`FRAME_SIZE`] finite samples at 24 kHz.
    Audio(&'a [f32]),
    /// Text tokens.
    Text(&'a [i32]),
}

/// A [`FrameIn`] that waits for its step.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// [`FRAME_SIZE`] finite samples at 24 kHz.
    Audio(Vec<f32>),
    /// Text tokens.
    Text(Vec<i32>),
}

impl Frame {
    /// A frame in which nothing is said.
    pub fn silence(kind: InputKind) -> Self {
        match kind {
            InputKind::Audio => Self::Audio(vec![0.0; FRAME_SIZE]),
            InputKind::Text => Self::Text(Vec::new()),
        }
    }

    /// What a step is given.
    pub fn as_input(&self) -> FrameIn<'_> {
        match self {
            Self::Audio(pcm) => FrameIn::Audio(pcm),
            Self::Text(tokens) => FrameIn::Text(tokens),
        }
    }
}

/// What one slot gets from a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameOut {
    /// [`FRAME_SIZE`] samples.
    pub audio: Option<Vec<f32>>,
    /// A text token.
    pub text: Option<i32>,
    /// Probabilities, 0 to 1, that nobody speaks in the input: one for each stretch of time that the
    /// model looks at. Empty if the model does not tell.
    pub pauses: Vec<f32>,
    /// What is wrong with this slot alone; its session ends.
    pub fault: Option<String>,
}

impl FrameOut {
    /// Whether there is no answer yet: the model's delays are not over.
    pub fn is_empty(&self) -> bool {
        self.audio.is_none() && self.text.is_none() && self.pauses.is_empty()
    }
}

/// Bytes that lie on graphics cards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuBytes {
    /// Weights of the language model.
    pub weights: usize,
    /// Running state of all slots.
    pub state: usize,
}

/// Slots that are stepped together.
pub trait Pipeline: Send {
    /// The kind of input it takes.
    fn input(&self) -> InputKind {
        InputKind::Audio
    }
    /// Number of slots.
    fn slots(&self) -> usize;
    /// Begins a conversation in a slot.
    fn begin(&mut self, slot: usize, start: &Start) -> Result<()>;
    /// One frame of each slot in `rows` (ascending), all of the kind [`Self::input`]. One answer
    /// for each, in order. After an error the state of these slots is unknown.
    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>>;
    /// Makes all state anew, after a panic.
    fn renew(&mut self) -> Result<()>;
    /// Bytes of running state.
    fn state_bytes(&self) -> usize;
    /// What of weights and state lies on graphics cards.
    fn gpu_bytes(&self) -> GpuBytes {
        GpuBytes::default()
    }
    /// Seconds of each stage of the last step.
    fn stage_seconds(&self) -> Vec<(&'static str, f64)>;
    /// Whether a text token stands for (a part of) a word, and not for a pause between words.
    fn is_word(&self, _token: i32) -> bool {
        true
    }
    /// Frames from a frame of input to the answer that belongs to it.
    fn delay(&self) -> usize;
    /// Frames of silence behind the last frame of input whose answers belong to it, too: those of a
    /// model that answers every frame at once, but tells what was said in it only later.
    fn tail(&self) -> usize {
        0
    }
}

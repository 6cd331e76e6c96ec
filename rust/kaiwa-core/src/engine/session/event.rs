//! What a session tells its caller.

use crate::engine::EndReason;

/// What a session tells its caller. Frames count from 0 in steps of 80 ms.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It waits (`queued`, with its place; 1 is next), runs (`active`), or stands still (`paused`).
    State {
        /// The word for it.
        name: &'static str,
        /// Place in the queue, else 0.
        position: usize,
    },
    /// An answer: 1920 samples.
    Audio {
        /// Number of the frame.
        frame: u64,
        /// Samples at 24 kHz.
        pcm: Vec<f32>,
    },
    /// An answer as whole Ogg pages.
    Pages {
        /// Number of the frame.
        frame: u64,
        /// The pages.
        bytes: Vec<u8>,
    },
    /// A text token of an answer, after its audio if there is any.
    Text {
        /// Number of the frame.
        frame: u64,
        /// The token.
        token: i32,
    },
    /// Whether nobody speaks in the input up to a frame, after its audio and text.
    Pause {
        /// Number of the frame.
        frame: u64,
        /// A probability, 0 to 1, for each stretch of time that the model looks at.
        probabilities: Vec<f32>,
    },
    /// The last event.
    End {
        /// Why it ended.
        reason: EndReason,
        /// A sentence, or nothing where the reason says all.
        message: String,
    },
}

impl Event {
    /// The state `name`, with no place in the queue.
    pub(in crate::engine) fn state(name: &'static str) -> Self {
        Self::State { name, position: 0 }
    }
}

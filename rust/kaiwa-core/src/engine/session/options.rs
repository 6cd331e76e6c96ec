//! What a session is to be.

use crate::engine::Pace;
use crate::pipeline::Start;

/// How audio crosses the engine's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Samples, 24 kHz mono.
    #[default]
    Pcm,
    /// Opus in Ogg pages.
    Opus,
}

/// What a session is to be.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Seed and sampling.
    pub start: Start,
    /// How audio crosses the engine's border.
    pub transport: Transport,
    /// How input is taken.
    pub pace: Pace,
    /// Put silence in where the caller sends nothing for 200 ms.
    pub server_clock: bool,
    /// Seconds from slot to end.
    pub max_seconds: Option<f64>,
    /// Frames of input from slot to end.
    pub max_frames: Option<u64>,
    /// Seconds without input until the end.
    pub idle_seconds: Option<f64>,
    /// Seconds the caller is ready to wait for a slot; 0 to be told at once.
    pub queue_seconds: f64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            start: Start::default(),
            transport: Transport::Pcm,
            pace: Pace::None,
            server_clock: false,
            max_seconds: None,
            max_frames: None,
            idle_seconds: None,
            queue_seconds: 30.0,
        }
    }
}

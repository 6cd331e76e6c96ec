//! How far back the codec's attention looks.

use crate::error::{Error, Result};

/// Which keys a latent step may attend to (docs/spec/mimi.md 3.1). The two differ once a stream is
/// longer than `context / 2` frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The rule of whole-signal calls: the last `context` steps.
    Whole,
    /// The rule of the reference's streaming mode, one frame at a time.
    Streaming,
}

impl Window {
    /// Parses `whole` or `streaming`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "whole" => Ok(Self::Whole),
            "streaming" => Ok(Self::Streaming),
            _ => Err(Error::OptionValue {
                name: "window",
                got: format!("{text:?}"),
                allowed: "\"streaming\" or \"whole\"".into(),
            }),
        }
    }
}

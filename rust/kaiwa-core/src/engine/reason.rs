//! Why a session ended.

use crate::error::{Error, Result};

/// Why a session ended, or was never let in. The words of [`Self::as_str`] reach callers: they
/// are in the last event of a session, in logs and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// The caller ended it.
    Client,
    /// Input is over and all of it was answered.
    Finished,
    /// The time limit was reached.
    Expired,
    /// No audio came for too long.
    Idle,
    /// Audio came much faster than real time.
    InputTooFast,
    /// Answers were not fetched for too long.
    SlowConsumer,
    /// Steps took too long for so many sessions.
    Shed,
    /// The connection was lost, and no new one resumed the session in time.
    Lost,
    /// The server stops or restarts.
    Drain,
    /// Ended by an operator, or with the engine.
    Closed,
    /// The caller's key was revoked.
    Revoked,
    /// Too many messages held nothing that could be understood.
    Garbage,
    /// Something failed; the message says what.
    Error,
    /// Not let in: no slot was free.
    Full,
    /// Not let in: steps would take too long.
    Overloaded,
    /// Not let in: the engine takes no new sessions.
    Draining,
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::Client,
        Self::Finished,
        Self::Expired,
        Self::Idle,
        Self::InputTooFast,
        Self::SlowConsumer,
        Self::Shed,
        Self::Lost,
        Self::Drain,
        Self::Closed,
        Self::Revoked,
        Self::Garbage,
        Self::Error,
        Self::Full,
        Self::Overloaded,
        Self::Draining,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Finished => "finished",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::InputTooFast => "input_too_fast",
            Self::SlowConsumer => "slow_consumer",
            Self::Shed => "shed",
            Self::Lost => "lost",
            Self::Drain => "drain",
            Self::Closed => "closed",
            Self::Revoked => "revoked",
            Self::Garbage => "garbage",
            Self::Error => "error",
            Self::Full => "full",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
        }
    }
}

impl std::str::FromStr for EndReason {
    type Err = Error;

    /// The reason of a word.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a word that names no reason.
    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|r| r.as_str() == word);
        found.ok_or_else(|| Error::OptionValue {
            name: "reason",
            got: format!("{word:?}"),
            allowed: format!("one of {}", Self::ALL.map(Self::as_str).join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_its_word_leads_back_to_it() {
        for (at, reason) in EndReason::ALL.into_iter().enumerate() {
            // The derived order is that of the declaration, so a variant left out of `ALL` shows.
            assert_eq!(reason as usize, at, "{reason:?} is out of order");
            assert_eq!(reason.as_str().parse::<EndReason>().ok(), Some(reason));
        }
        assert_eq!(EndReason::Draining as usize + 1, EndReason::ALL.len());
    }

    #[test]
    fn a_word_that_names_no_reason_is_refused() {
        let error = "because".parse::<EndReason>().err().map(|e| e.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("\"because\"") && error.contains("slow_consumer"));
    }
}

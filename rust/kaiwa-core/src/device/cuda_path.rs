//! Which kernels the language model uses on a CUDA card: `KAIWA_CUDA` says it.
//!
//! Candle's operators are the default as long as kernels of our own have not run on a card.

use crate::error::{Error, Result};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaPath {
    /// Candle's operators.
    Candle,
    /// Kernels of our own, a frame at a time as a captured graph.
    Own,
    /// Kernels of our own one by one: slower, for profilers and to look for errors.
    OwnEager,
}

impl CudaPath {
    const ALL: [Self; 3] = [Self::Candle, Self::Own, Self::OwnEager];

    /// What `KAIWA_CUDA` says; [`Self::Candle`] if it is empty or not set.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for anything that it does not take.
    pub fn chosen() -> Result<Self> {
        Self::parse(&std::env::var("KAIWA_CUDA").unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Candle);
        }
        let found = Self::ALL.into_iter().find(|path| path.name() == text);
        found.ok_or_else(|| Error::OptionValue {
            name: "KAIWA_CUDA",
            got: format!("{text:?}"),
            allowed: "\"candle\" (Candle's operators, the default), \"own\" (kernels of Kaiwa's \
                      own) or \"own-eager\" (the same, one by one)"
                .into(),
        })
    }

    /// The value that chooses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Own => "own",
            Self::OwnEager => "own-eager",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for path in CudaPath::ALL {
            assert_eq!(CudaPath::parse(path.name()).unwrap(), path);
        }
        assert_eq!(CudaPath::parse("").unwrap(), CudaPath::Candle);
        for wrong in ["Own", "auto", "own ", "1"] {
            let error = CudaPath::parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains("KAIWA_CUDA") && error.contains("own-eager"),
                "{error}"
            );
        }
    }
}

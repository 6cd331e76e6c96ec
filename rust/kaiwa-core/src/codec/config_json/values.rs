//! Types of entries that Mimi's two schemas share.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::json::{checked, whole};

/// An entry of which one value is supported. It changes what a model computes, so it is read,
/// and a model of another kind is refused instead of running wrongly.
macro_rules! only {
    ($(#[$doc:meta])* $name:ident, $value:tt, $wanted:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                let value = serde_json::json!($value);
                let only = |got: &serde_json::Value| {
                    $crate::codec::config_json::values::same(got, &value).then_some(Self)
                };
                $crate::json::checked(from, $wanted, only)
            }
        }
    };
}
pub(super) use only;

/// Equality in which 1 and 1.0 are the same entry, written by two programs.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

only!(Mono, 1, "only mono is supported");
only!(
    /// A flag of causality.
    Causal,
    true,
    "only causal models can stream"
);
only!(
    /// `trim_right_ratio`: all that a transposed convolution trims is cut on the right.
    TrimRight,
    1,
    "only causal models can stream"
);
only!(OneSemantic, 1, "only one semantic codebook is supported");
only!(True, true, "only true is supported");
only!(False, false, "only false is supported");

/// What SEANet's convolutions are padded with.
#[derive(Debug, Clone, Copy)]
pub(super) enum PadMode {
    Constant,
    Replicate,
}

impl From<PadMode> for bool {
    /// True for repeating the first column.
    fn from(mode: PadMode) -> Self {
        matches!(mode, PadMode::Replicate)
    }
}

impl<'de> Deserialize<'de> for PadMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "use \"constant\" or \"replicate\"";
        checked(from, wanted, |v| match v.as_str() {
            Some("constant") => Some(Self::Constant),
            Some("replicate") => Some(Self::Replicate),
            _ => None,
        })
    }
}

/// Attention window in steps. Null would mean no limit, so it is not absence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window(pub usize);

impl From<Window> for usize {
    fn from(window: Window) -> Self {
        window.0
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "streaming needs a limited attention window: use a whole number from 1";
        checked(from, wanted, whole).map(Self)
    }
}

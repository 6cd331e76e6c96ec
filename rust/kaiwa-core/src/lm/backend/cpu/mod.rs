//! Moshi on the processor with this crate's own kernels.

mod depth;
mod layer;
mod load;
mod stages;
mod state;
mod temporal;

use std::ops::ControlFlow;
use std::sync::Arc;

pub(crate) use state::CpuState;

use depth::Depth;
use load::Loader;
use temporal::Temporal;

use super::host_sampled::HostSampled;
use super::{LmBackend, LmState};
use crate::cpu::Isa;
use crate::error::Result;
use crate::formats::{KvFormat, WeightFormat};
use crate::lm::{LmConfig, LmTensors};

/// A language model's weights, packed for the CPU kernels; shared by all streams.
pub(crate) struct CpuLm {
    isa: Isa,
    config: LmConfig,
    temporal: Temporal,
    depth: Option<Depth>,
    kv: KvFormat,
    weight_bytes: usize,
}

impl CpuLm {
    /// Reads and packs every weight; `progress` is called with (bytes done, bytes in all).
    pub(crate) fn load(
        tensors: &dyn LmTensors,
        weights: Option<WeightFormat>,
        kv: KvFormat,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::load_for(Isa::detect(), tensors, weights, kv, progress)
    }

    /// [`Self::load`] for a given instruction set, which must be one of [`Isa::available`].
    pub(crate) fn load_for(
        isa: Isa,
        tensors: &dyn LmTensors,
        weights: Option<WeightFormat>,
        kv: KvFormat,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let config = tensors.config().clone();
        let mut loader = Loader::new(isa, tensors, weights, progress)?;
        let temporal = Temporal::load(&mut loader, &config)?;
        let depth = match &config.depth {
            Some(depth) => Some(Depth::load(&mut loader, &config, depth)?),
            None => None,
        };
        Ok(Self {
            isa,
            temporal,
            depth,
            kv,
            weight_bytes: loader.bytes(),
            config,
        })
    }
}

impl LmBackend for CpuLm {
    fn state(self: Arc<Self>, slots: usize) -> Result<Box<dyn LmState>> {
        let state = CpuState::new(self.clone(), slots);
        Ok(Box::new(HostSampled::new(state, &self.config)))
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn step_bytes(&self) -> Vec<(&'static str, usize)> {
        let mut stages = self.temporal.step_bytes();
        stages.push((
            stages::DEPTH,
            self.depth.as_ref().map_or(0, Depth::step_bytes),
        ));
        stages
    }

    fn weights(&self) -> WeightFormat {
        self.temporal.weights()
    }
}

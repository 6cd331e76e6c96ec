//! The device backend, on Candle's processor device, against the reference's outputs and against
//! a plain implementation of the specification.
#![allow(clippy::unwrap_used)]

mod conversations;
mod fixtures;
mod golden;
mod independence;
mod loading;
mod lost_device;
mod random_model;
mod reference;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use self::fixtures::Tensors;
use super::{CandleLm, CandleOptions};
use crate::device::Device;
use crate::formats::{KvFormat, WeightFormat};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(name)
}

const EXACT: CandleOptions = CandleOptions {
    weights: Some(WeightFormat::F32),
    kv: KvFormat::F32,
};

fn with(weights: Option<WeightFormat>) -> CandleOptions {
    CandleOptions { weights, ..EXACT }
}

fn load(tensors: &Tensors, options: CandleOptions) -> Arc<CandleLm> {
    let mut go_on = |_, _| ControlFlow::Continue(());
    Arc::new(CandleLm::load(tensors, Device::CandleCpu, &options, &mut go_on).unwrap())
}

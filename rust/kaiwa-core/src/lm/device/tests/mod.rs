//! The device backend, on Candle's processor device, against the reference's outputs and against
//! a plain implementation of the specification.
#![allow(clippy::unwrap_used)]

mod drive;
mod golden;
mod holding;
mod independence;
mod made_up;
mod plain;
mod source;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use self::source::Tensors;
use super::{DeviceKv, DeviceLm, DeviceOptions, DeviceWeights};
use crate::codec::Device;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(name)
}

const EXACT: DeviceOptions = DeviceOptions {
    weights: DeviceWeights::F32,
    kv: DeviceKv::F32,
};

fn with(weights: DeviceWeights) -> DeviceOptions {
    DeviceOptions { weights, ..EXACT }
}

fn load(tensors: &Tensors, options: DeviceOptions) -> Arc<DeviceLm> {
    let mut go_on = |_, _| ControlFlow::Continue(());
    Arc::new(DeviceLm::load(tensors, Device::CandleCpu, &options, &mut go_on).unwrap())
}

//! A device that fails for good says so at every call, and loading on it fails cleanly.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::DType;

use super::CandleLm;
use super::fixtures::layout_a;
use crate::device::OpenDevice;
use crate::error::{Error, Result};
use crate::formats::WeightFormat;
use crate::lm::Sampling;
use crate::lm::backend::{Draw, Frame, LmBackend, LmState};

fn load(pieces: i64) -> Result<Arc<CandleLm>> {
    let mut go_on = |_, _| ControlFlow::Continue(());
    let device = OpenDevice::breaking(pieces);
    CandleLm::load_on(
        device,
        &layout_a("moshi_small"),
        Some(WeightFormat::F32),
        DType::F32,
        &mut go_on,
    )
    .map(Arc::new)
}

fn step(model: &CandleLm, state: &mut dyn LmState) -> Result<()> {
    let draw = Draw {
        sampling: Sampling {
            temp: 0.0,
            temp_text: 0.0,
            ..model.config.sampling
        },
        seed: 1,
        step: 0,
    };
    let frame = Frame {
        slots: &[0, 1],
        tokens: &vec![-1; 2 * (model.config.n_q + 1)],
        conditions: &[],
        draws: &[draw; 2],
        force_text: &[],
        force_audio: &[],
    };
    state.step(&frame).map(|_| ())
}

fn is_lost<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::DeviceLost { .. }))
}

#[test]
fn every_call_after_the_loss_says_so() {
    assert!(is_lost(load(0)));
    // Loading, the state, a frame of one temporal pass and eight sub-steps.
    let whole = 1 + 1 + 9;
    for pieces in 2..whole {
        let model = load(pieces).unwrap();
        let mut state = model.clone().state(2).unwrap();
        assert!(is_lost(step(&model, &mut *state)), "after {pieces} pieces");
        assert!(is_lost(step(&model, &mut *state)));
        assert!(is_lost(state.reset(0)));
        assert!(is_lost(model.clone().state(1).map(|_| ())));
    }
    let model = load(whole).unwrap();
    let mut state = model.clone().state(2).unwrap();
    assert!(step(&model, &mut *state).is_ok());
    assert!(is_lost(step(&model, &mut *state)));
}

//! Frames: what they cost, that two runs are equal, and what happens when the device fails or is
//! full.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::{CudaLm, room};
use crate::cuda::executor::Counts;
use crate::cuda::queue::Mode;
use crate::cuda::sim::Options;
use crate::cuda::sim_driver::SimExecutor;
use crate::error::{Error, Result};
use crate::formats::KvFormat;
use crate::lm::backend::{Draw, Frame, FrameLogits, FrameTokens, LmBackend, LmState};
use crate::lm::synth::{RandomLm, Size};
use crate::lm::{LmConfig, Sampling};

fn config() -> LmConfig {
    let mut config = Size::Tiny.config();
    config.context = 20;
    config
}

fn load(executor: &SimExecutor, kv: KvFormat) -> Result<Arc<CudaLm>> {
    let tensors = RandomLm::new(config(), 3);
    let mut go_on = |_, _| ControlFlow::Continue(());
    CudaLm::load(executor.executor(), &tensors, None, kv, &mut go_on).map(Arc::new)
}

/// A frame of some slots; tokens and settings follow from the slot and the step.
fn step(state: &mut dyn LmState, slots: &[usize], step: u64) -> Result<FrameTokens> {
    let config = config();
    let columns = config.n_q + 1;
    let tokens: Vec<i32> = slots
        .iter()
        .flat_map(|slot| {
            (0..columns).map(move |c| ((slot * 31 + c * 7 + step as usize) % 60) as i32)
        })
        .collect();
    let draw = |slot: &usize| Draw {
        sampling: Sampling {
            top_k: 20,
            ..config.sampling
        },
        seed: *slot as u64,
        step,
    };
    let draws: Vec<Draw> = slots.iter().map(draw).collect();
    state.step(&Frame {
        slots,
        tokens: &tokens,
        conditions: &[],
        draws: &draws,
        force_text: &[],
        force_audio: &[],
    })
}

/// A whole conversation of three slots, of which some pause.
fn conversation(options: Options, mode: Mode, kv: KvFormat) -> Vec<(FrameTokens, FrameLogits)> {
    let executor = SimExecutor::new(usize::MAX, options, mode);
    let model = load(&executor, kv).unwrap();
    let mut state = model.state(3).unwrap();
    (0..25)
        .map(|n| {
            let slots: &[usize] = [&[0, 1, 2][..], &[0, 2], &[1]][n as usize % 3];
            let made = step(&mut *state, slots, n).unwrap();
            (made, state.logits().unwrap())
        })
        .collect()
}

#[test]
fn two_runs_both_orders_of_threads_and_graphs_are_equal() {
    for kv in KvFormat::ALL {
        let made = conversation(Options::FORWARD, Mode::Eager, kv);
        let again = conversation(Options::FORWARD, Mode::Eager, kv);
        assert!(made == again, "{kv:?}");
        // Among its frames are those of one and two rows, which are filled up.
        let backward = conversation(Options::BACKWARD, Mode::Graph, kv);
        assert!(made == backward, "{kv:?}");
    }
}

#[test]
fn a_frame_is_one_copy_in_one_copy_out_and_one_wait() {
    for mode in [Mode::Eager, Mode::Graph] {
        let device = SimExecutor::new(usize::MAX, Options::FORWARD, mode);
        let executor = device.executor();
        let model = load(&device, KvFormat::Bf16).unwrap();
        let mut state = model.state(4).unwrap();
        let cost = |state: &mut dyn LmState, slots: &[usize]| {
            let before = executor.counts();
            step(state, slots, 0).unwrap();
            let after = executor.counts();
            Counts {
                frames: after.frames - before.frames,
                kernels: after.kernels - before.kernels,
                launches: after.launches - before.launches,
                copies_in: after.copies_in - before.copies_in,
                copies_out: after.copies_out - before.copies_out,
                waits: after.waits - before.waits,
            }
        };
        let one = cost(&mut *state, &[2]);
        // Rotation, embedding, two layers, norm, head, draw; eight sub-steps of two layers.
        let kernels = 2 + 2 * 7 + 3 + 8 * (2 + 2 * 7 + 2);
        let wanted = Counts {
            frames: 1,
            kernels,
            launches: if mode == Mode::Graph { 1 } else { kernels },
            copies_in: 1,
            copies_out: 1,
            waits: 1,
        };
        assert_eq!(one, wanted, "{mode:?}");
        // More rows and slots apart cost the same.
        assert_eq!(cost(&mut *state, &[0, 2, 3]), wanted, "{mode:?}");
    }
}

fn is_lost<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::DeviceLost { .. }))
}

#[test]
fn every_call_after_the_loss_says_so() {
    for mode in [Mode::Eager, Mode::Graph] {
        let executor = SimExecutor::new(usize::MAX, Options::FORWARD, mode);
        for pieces in [0, 1, 20] {
            executor.break_in(pieces);
            assert!(is_lost(load(&executor, KvFormat::Bf16)));
        }
        executor.break_in(-1);
        let model = load(&executor, KvFormat::Bf16).unwrap();
        let mut state = model.clone().state(2).unwrap();
        step(&mut *state, &[0, 1], 0).unwrap();
        // Before the copy in, in the midst of the launches, before the copy out.
        for pieces in [0, 1, 2, 30, 160] {
            executor.break_in(pieces);
            assert!(is_lost(step(&mut *state, &[0, 1], 1)), "after {pieces}");
            assert!(is_lost(step(&mut *state, &[0, 1], 1)));
            assert!(is_lost(state.reset(0)));
            assert_eq!(state.logits().unwrap(), FrameLogits::default());
            assert!(is_lost(model.clone().state(1).map(|_| ())));
        }
    }
}

/// A device that fails while a stream is made, at its memory, its first run or its capture.
#[test]
fn a_loss_while_a_stream_is_made_says_so() {
    let executor = SimExecutor::new(usize::MAX, Options::FORWARD, Mode::Graph);
    let model = load(&executor, KvFormat::Bf16).unwrap();
    for pieces in [0, 10, 40, 80, 200] {
        executor.break_in(pieces);
        assert!(
            is_lost(model.clone().state(2).map(|_| ())),
            "after {pieces}"
        );
        executor.break_in(-1);
    }
    let mut state = model.state(2).unwrap();
    step(&mut *state, &[0, 1], 0).unwrap();
}

/// No slot has advanced, and the same frame gives the same again.
#[test]
fn a_frame_that_failed_can_be_made_again() {
    let run = |fails: bool| -> Vec<FrameTokens> {
        let mode = if fails { Mode::Graph } else { Mode::Eager };
        let executor = SimExecutor::new(usize::MAX, Options::FORWARD, mode);
        let mut state = load(&executor, KvFormat::Int8).unwrap().state(2).unwrap();
        let mut made = Vec::new();
        for n in 0..24 {
            if fails {
                executor.break_in(7 * n % 150);
                step(&mut *state, &[0, 1], n as u64).unwrap_err();
                executor.break_in(-1);
            }
            made.push(step(&mut *state, &[0, 1], n as u64).unwrap());
        }
        made
    };
    assert!(run(true) == run(false));
}

#[test]
fn slots_that_do_not_fit_are_refused_with_the_number_that_does() {
    let executor = SimExecutor::new(usize::MAX, Options::FORWARD, Mode::Eager);
    let model = load(&executor, KvFormat::Bf16).unwrap();
    let weights = usize::MAX - executor.executor().free_bytes().unwrap();
    assert!(weights >= model.weight_bytes());
    let slot = 2 * 2 * 128 * 20 * 2;
    let state = model.clone().state(1).unwrap();
    assert_eq!(state.slot_bytes(0), slot + size_of::<u64>());
    assert_eq!(state.slot_bytes(1), 0);
    drop(state);
    // A gigabyte is kept free beside weights and streams; seven slots and what their steps need
    // fit exactly.
    let size = weights + (1 << 30) + room::bytes(&model, 7);
    let executor = SimExecutor::new(size, Options::FORWARD, Mode::Eager);
    let model = load(&executor, KvFormat::Bf16).unwrap();
    let free = executor.executor().free_bytes().unwrap();
    let state = model.clone().state(7).unwrap();
    let held = free - executor.executor().free_bytes().unwrap();
    let counted = room::bytes(&model, 7);
    assert!(held > 7 * slot && counted >= held, "{held} of {counted}");
    drop(state);
    let error = model.clone().state(8).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::SlotsMemory { .. }), "{error}");
    assert!(error.to_string().contains("slots=7"), "{error}");
    // And weights that do not fit are no lost device.
    let small = SimExecutor::new(weights / 2, Options::FORWARD, Mode::Eager);
    let error = load(&small, KvFormat::Bf16).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
}

#[test]
fn memory_is_given_back() {
    let device = SimExecutor::new(usize::MAX, Options::FORWARD, Mode::Graph);
    let executor = device.executor();
    let model = load(&device, KvFormat::Int8).unwrap();
    let free = executor.free_bytes();
    let mut state = model.clone().state(3).unwrap();
    let held = executor.free_bytes();
    for n in 0..30 {
        step(&mut *state, &[0, 2], n).unwrap();
        assert_eq!(executor.free_bytes(), held, "steps take no memory");
    }
    drop(state);
    assert_eq!(executor.free_bytes(), free);
    drop(model);
    assert_eq!(executor.free_bytes(), Some(usize::MAX));
}

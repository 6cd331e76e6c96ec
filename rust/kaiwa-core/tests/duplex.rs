//! The duplex pipeline's own checks: frames of a wrong length change nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;

use kaiwa_core::Error;
use kaiwa_core::codec::{Mimi, WeightType};
use kaiwa_core::device::Device;
use kaiwa_core::lm::synth::{RandomLm, Size};
use kaiwa_core::lm::{Moshi, MoshiOptions, Sampling};
use kaiwa_core::pipeline::{Duplex, FRAME_SIZE};

fn duplex() -> Duplex {
    let path = support::golden("mimi.safetensors");
    let mimi = Mimi::load(
        &path,
        support::golden_config(),
        8,
        Device::Cpu,
        WeightType::F32,
    );
    let weights = RandomLm::new(Size::Tiny.config(), 1);
    let moshi = Moshi::load(&weights, &MoshiOptions::default(), &mut |_, _| {
        ControlFlow::Continue(())
    });
    let (seeds, sampling) = ([1, 2], [Sampling::default(); 2]);
    Duplex::with(mimi.unwrap(), moshi.unwrap(), &seeds, &sampling, false).unwrap()
}

#[test]
fn pcm_of_a_wrong_length_is_refused_and_changes_nothing() {
    let (mut plain, mut bothered) = (duplex(), duplex());
    let frame: Vec<f32> = (0..FRAME_SIZE)
        .map(|i| (i as f32 * 0.05).sin() * 0.3)
        .collect();
    for _ in 0..4 {
        for (slots, length, wanted) in [
            (&[0, 1][..], FRAME_SIZE, format!("[2, {FRAME_SIZE}]")),
            (&[0, 1], 2 * FRAME_SIZE - 1, format!("[2, {FRAME_SIZE}]")),
            (&[0, 1], 2 * FRAME_SIZE + 1, format!("[2, {FRAME_SIZE}]")),
            (&[1], 0, format!("[1, {FRAME_SIZE}]")),
            (&[1], 2 * FRAME_SIZE, format!("[1, {FRAME_SIZE}]")),
        ] {
            match bothered.step_rows(slots, &vec![0.1; length], &[]) {
                Err(Error::Shape {
                    what: "pcm",
                    got,
                    wanted: said,
                    ..
                }) => assert_eq!((got, said), (format!("[{length}]"), wanted)),
                other => panic!("{length} samples for {slots:?}: {other:?}"),
            }
        }
        let step = |duplex: &mut Duplex| duplex.step_rows(&[0], &frame, &[]).unwrap();
        assert_eq!(step(&mut plain), step(&mut bothered));
    }
}

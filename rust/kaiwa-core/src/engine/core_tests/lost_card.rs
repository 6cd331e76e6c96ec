//! Calls whose language model runs on our own kernels, on a simulated card that fails: before a
//! step, in its midst, at its end, kernel by kernel and as a graph.

use super::*;
use crate::cuda::queue::Mode;
use crate::cuda::sim::Options;
use crate::cuda::sim_driver::SimExecutor;
use crate::lm::synth::{RandomLm, Size};
use crate::lm::{Moshi, MoshiStream, StepInput};

/// Says the text tokens of the model, which hears silence.
struct OnCard(MoshiStream);

impl Pipeline for OnCard {
    fn slots(&self) -> usize {
        self.0.slots()
    }
    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        self.0.set_seed(slot, start.seed)?;
        self.0.reset(Some(&[slot]))
    }
    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        let slots: Vec<usize> = rows.iter().map(|(slot, _)| *slot).collect();
        let books = self.0.moshi().config().user_codebooks();
        let made = self.0.step(StepInput {
            slots: &slots,
            user_codes: &vec![0; slots.len() * books],
            codebooks: books,
            ..StepInput::default()
        })?;
        let text = made.text.into_iter().map(|text| FrameOut {
            text: Some(text),
            ..FrameOut::default()
        });
        Ok(text.collect())
    }
    fn renew(&mut self) -> Result<()> {
        Ok(())
    }
    fn state_bytes(&self) -> usize {
        self.0.state_bytes()
    }
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
    fn delay(&self) -> usize {
        0
    }
}

fn world(card: &SimExecutor) -> World {
    let tensors = RandomLm::new(Size::Tiny.config(), 3);
    let model = Moshi::on_simulator(card, &tensors).unwrap();
    let sampling = [model.config().sampling; 2];
    let stream = model.stream(&[1, 2], &sampling).unwrap();
    let hand = Arc::new(Hand::default());
    let input = InputKind::Audio;
    let engine = Arc::new(EngineShared::new(hand.clone(), input, 1, 5).unwrap());
    World::over(Box::new(OnCard(stream)), engine, hand, Arc::default())
}

#[test]
fn a_card_that_fails_in_mid_call_ends_the_calls_with_its_message() {
    for (mode, pieces) in [
        (Mode::Eager, 0),
        (Mode::Eager, 90),
        (Mode::Graph, 1),
        (Mode::Graph, 162),
    ] {
        let card = SimExecutor::new(usize::MAX, Options::FORWARD, mode);
        let mut world = world(&card);
        let (first, second) = (world.open(call()), world.open(call()));
        world.run_until_idle();
        let queued = world.open(call());
        for session in [&first, &second] {
            session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
        }
        world.run_until_idle();
        let said = |session: &Session| {
            let events = session.events();
            let text = |event: &&Event| matches!(event, Event::Text { .. });
            assert_eq!(end_of(&events), None);
            events.iter().filter(text).count()
        };
        assert_eq!((said(&first), said(&second)), (1, 1), "{mode:?}");

        card.break_in(pieces);
        first.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
        let mut turns = (0..4).map(|_| world.core.guarded_turn());
        assert!(turns.any(|turn| turn == Turn::Closed), "{mode:?} {pieces}");
        for session in [&first, &second, &queued] {
            let events = session.events();
            assert_eq!(end_of(&events), Some("error"));
            let Some(Event::End { message, .. }) = events.last() else {
                panic!("no end");
            };
            assert!(message.contains("cuda-sim has failed"), "{message}");
        }
        assert_eq!(world.engine.readiness().state, "failed");
        // Nobody is let in any more.
        let late = SessionInner::new(9, world.engine.clone(), call(), None);
        assert!(world.core.registry.request(late).is_err());
    }
}

//! Slots out of step give what each gives alone.

use std::sync::Arc;

use super::conversations::{Chosen, Conversations, solo, tokens};
use super::fixtures::layout_a;
use super::golden::Expected;
use super::{CandleLm, CandleOptions, EXACT, load};
use crate::error::Error;
use crate::formats::KvFormat;
use crate::lm::backend::LmState;
use crate::lm::backend::host_sampled::Transformers;

const SLOTS: usize = 4;
const STEPS: usize = 60;

/// Users of the slots: the golden one, shifted.
fn users() -> Vec<Vec<Vec<i32>>> {
    let golden = Expected::of("moshi_small").columns("user_codes");
    (0..SLOTS)
        .map(|slot| {
            (0..STEPS)
                .map(|t| golden[(t + 11 * slot) % 80].clone())
                .collect()
        })
        .collect()
}

/// Slots join late, pause in turns (so that active ones are neighbours or not), and slot 1 is
/// reset at step 30. What each slot made, by its own conversation.
fn together(
    model: &Arc<CandleLm>,
    disturb: impl Fn(usize, &mut Conversations),
) -> Vec<Vec<Chosen>> {
    let users = users();
    let mut conversations = Conversations::new(model, SLOTS);
    let mut made = vec![Vec::new(); SLOTS + 1];
    let mut conversation: Vec<usize> = (0..SLOTS).collect();
    for step in 0..STEPS {
        if step == 30 {
            conversations.reset(1);
            conversation[1] = SLOTS;
        }
        disturb(step, &mut conversations);
        let on = |slot: &usize| step >= 5 * slot && !(step + 3 * slot).is_multiple_of(4 + slot);
        let slots: Vec<usize> = (0..SLOTS).filter(on).collect();
        let inputs: Vec<_> = slots
            .iter()
            .map(|s| users[*s][made[conversation[*s]].len()].clone())
            .collect();
        for (slot, chosen) in slots.iter().zip(conversations.step(&slots, &inputs)) {
            made[conversation[*slot]].push(chosen);
        }
    }
    made
}

fn alone(model: &Arc<CandleLm>, made: &[Vec<Chosen>]) -> Vec<Vec<Chosen>> {
    let users = users();
    let conversations = made.iter().enumerate();
    conversations
        .map(|(c, made)| solo(model, &users[if c == SLOTS { 1 } else { c }][..made.len()]))
        .collect()
}

#[test]
fn slots_out_of_step_are_slots_alone() {
    let tensors = layout_a("moshi_small");
    for kv in [KvFormat::F32, KvFormat::Bf16] {
        let model = load(&tensors, CandleOptions { kv, ..EXACT });
        let made = together(&model, |_, _| ());
        for (made, alone) in made.iter().zip(alone(&model, &made)) {
            // Past a full ring of 12.
            assert!(made.len() > 15);
            assert_eq!(tokens(made), tokens(&alone));
            let out = |of: &[Chosen]| -> Vec<_> { of.iter().map(|c| c.out.clone()).collect() };
            assert_eq!(out(made), out(&alone));
        }
    }
}

/// The control: if a slot's keys reach another, it shows, and only there.
#[test]
fn a_shared_state_shows() {
    let model = load(&layout_a("moshi_small"), EXACT);
    let made = together(&model, |step, conversations| {
        if step == 40 {
            conversations.state.transformers.copy_slot(0, 2);
        }
    });
    let alone = alone(&model, &made);
    for (c, (made, alone)) in made.iter().zip(&alone).enumerate() {
        assert_eq!(tokens(made) == tokens(alone), c != 2, "conversation {c}");
    }
}

#[test]
fn a_failed_step_changes_nothing() {
    let model = load(&layout_a("moshi_small"), EXACT);
    let (config, users) = (&model.config, users());
    let mut conversations = Conversations::new(&model, 2);
    let mut logits = vec![0.0; config.text_card_out];
    let mut made = Vec::new();
    for user in &users[0] {
        made.push(
            conversations
                .step(&[1], std::slice::from_ref(user))
                .remove(0),
        );
        let state = &mut conversations.state.transformers;
        // An id that no table has; wrong rows; a sub-step out of turn.
        let mut bad = vec![0; config.n_q + 1];
        bad[3] = config.card as i32 + 1;
        let error = state.temporal(&[1], &bad, &[], &mut logits).unwrap_err();
        assert!(matches!(error, Error::CodeRange { .. }), "{error}");
        assert!(state.temporal(&[2], &bad, &[], &mut logits).is_err());
        assert!(state.temporal(&[1, 0], &bad, &[], &mut logits).is_err());
        assert!(state.temporal(&[1], &bad[1..], &[], &mut logits).is_err());
        // All is done but handing over the logits: keys are written by then.
        bad[3] = 0;
        let short = &mut logits[1..];
        assert!(state.temporal(&[1], &bad, &[], short).is_err());
        assert!(state.depth(0, &[0], &mut vec![0.0; config.card]).is_err());
        // A frame whose last sub-step fails.
        bad[3] = 1;
        state.temporal(&[1], &bad, &[], &mut logits).unwrap();
        assert!(state.depth(0, &[0], &mut [0.0; 1]).is_err());
    }
    assert_eq!(tokens(&made), tokens(&solo(&model, &users[0])));
}

#[test]
fn storage_is_that_of_a_full_window_from_the_start() {
    let model = load(&layout_a("moshi_small"), EXACT);
    let users = users();
    let mut conversations = Conversations::new(&model, 1);
    // 3 layers, keys and values of 64 floats, 12 columns.
    let position = size_of::<u64>();
    let whole = 3 * 2 * 64 * 4 * 12;
    for user in &users[0][..20] {
        assert_eq!(conversations.state.slot_bytes(0), whole + position);
        conversations.step(&[0], std::slice::from_ref(user));
    }
    let half = CandleOptions {
        kv: KvFormat::Bf16,
        ..EXACT
    };
    let conversations = Conversations::new(&load(&layout_a("moshi_small"), half), 1);
    assert_eq!(conversations.state.slot_bytes(0), whole / 2 + position);
    assert_eq!(conversations.state.slot_bytes(1), 0);
}

/// Keys that are not seen are still multiplied, by zero: a reset must take away what is no
/// number.
#[test]
fn a_reset_forgets_infinities() {
    let model = load(&layout_a("moshi_small"), EXACT);
    let (config, users) = (&model.config, &users()[0]);
    let mut conversations = Conversations::new(&model, 2);
    let mut logits = vec![0.0; config.text_card_out];
    let condition = vec![f32::INFINITY; config.dim];
    let ids = vec![0; config.n_q + 1];
    for _ in 0..6 {
        let state = &mut conversations.state.transformers;
        state.temporal(&[1], &ids, &condition, &mut logits).unwrap();
        state.advance(&[1]);
        assert!(logits.iter().all(|l| l.is_nan()));
    }
    conversations.reset(1);
    let made = users.iter().map(|user| {
        conversations
            .step(&[1], std::slice::from_ref(user))
            .remove(0)
    });
    let made: Vec<Chosen> = made.collect();
    assert_eq!(tokens(&made), tokens(&solo(&model, users)));
    let error = conversations.state.reset(2).unwrap_err();
    assert!(matches!(error, Error::SlotIndex { got: 2, slots: 2 }));
}

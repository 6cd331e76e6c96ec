//! Steps that fail, panics, and devices that are lost.

use super::*;

#[test]
fn a_fault_stays_in_its_slot() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.run_until_idle();
    world.script.lock().unwrap().fault_slot = Some(0);
    a.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    b.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.run_until_idle();
    assert_eq!(end_of(&a.events()), Some("error"));
    world.script.lock().unwrap().fault_slot = None;
    let events = world.talk(&b, 2);
    assert_eq!(audio(&events).len(), 2);
}

#[test]
fn a_failed_step_and_a_panic_end_sessions_not_the_engine() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.run_until_idle();
    world.script.lock().unwrap().fail = true;
    a.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.run_until_idle();
    world.script.lock().unwrap().fail = false;
    assert_eq!(end_of(&a.events()), Some("error"));
    assert!(!b.ended());
    world.script.lock().unwrap().panic = true;
    b.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.run_until_idle();
    world.script.lock().unwrap().panic = false;
    assert_eq!(end_of(&b.events()), Some("error"));
    assert_eq!(world.engine.stats().panics, 1);
    let c = world.open(call());
    world.run_until_idle();
    assert_eq!(audio(&world.talk(&c, 3)).len(), 2);
}

#[test]
fn a_lost_device_ends_every_session_with_its_message_and_closes_the_engine() {
    // It is seen in a step, or when a conversation begins.
    for at_begin in [false, true] {
        let mut world = World::new(2);
        let (speaking, silent) = (world.open(call()), world.open(call()));
        world.run_until_idle();
        let queued = world.open(call());
        world.run_until_idle();
        world.script.lock().unwrap().lose = true;
        let mut sessions = vec![speaking, silent, queued];
        if at_begin {
            drop(sessions.remove(0));
        } else {
            sessions[0].send_pcm(&[0.0; FRAME_SIZE]).unwrap();
        }
        let turns = (0..4).map(|_| world.core.guarded_turn());
        assert!(turns.into_iter().any(|turn| turn == Turn::Closed));
        for session in &sessions {
            let events = session.events();
            assert_eq!(end_of(&events), Some("error"));
            let Some(Event::End { message, .. }) = events.last() else {
                panic!("no end");
            };
            assert!(message.contains("cuda:0 has failed"), "{message}");
        }
        let ready = world.engine.readiness().clone();
        assert_eq!(ready.state, "failed");
        assert!(ready.failure.unwrap().contains("cuda:0 has failed"));
        assert_eq!(world.engine.stats().panics, 0);
    }
}

#[test]
fn a_panic_outside_a_step_is_counted_told_to_everybody_and_closes_the_engine() {
    let mut world = World::new(2);
    let (running, another) = (world.open(call()), world.open(call()));
    let queued = world.open(call());
    world.run_until_idle();
    drop(another);
    world.script.lock().unwrap().panic_at_begin = true;
    assert_eq!(world.core.guarded_turn(), Turn::Closed);
    // Also the one in the middle of being let in.
    for session in [&running, &queued] {
        let events = session.events();
        assert_eq!(end_of(&events), Some("error"));
        let Some(Event::End { message, .. }) = events.last() else {
            panic!("no end");
        };
        assert!(message.contains("please report it"), "{message}");
    }
    assert_eq!(world.engine.stats().panics, 1);
    assert_eq!(world.engine.readiness().state, "failed");
    let late = SessionInner::new(9, world.engine.clone(), call(), None);
    assert!(world.core.registry.request(late).is_err());
    assert!(world.core.registry.sessions().is_empty());
    assert_eq!(world.core.admission.used(), 0);
}

//! Limits of a session, and clients that are lost, slow, too fast, silent or paused.

use super::*;

#[test]
fn limits_of_time_of_frames_and_of_silence_end_a_session() {
    let mut world = World::new(4);
    let limited = world.open(SessionOptions {
        max_seconds: Some(2.0),
        ..call()
    });
    let counted = world.open(SessionOptions {
        max_frames: Some(5),
        ..call()
    });
    let silent = world.open(SessionOptions {
        idle_seconds: Some(1.0),
        ..call()
    });
    world.run_until_idle();
    let events = world.talk(&counted, 5);
    assert_eq!(
        (audio(&events).len(), end_of(&events)),
        (4, Some("expired"))
    );
    assert_eq!(end_of(&silent.events()), None);
    world.pass(0.7);
    assert_eq!(end_of(&silent.events()), Some("idle"));
    world.pass(0.8);
    assert_eq!(end_of(&limited.events()), None);
    world.pass(0.2);
    assert_eq!(end_of(&limited.events()), Some("expired"));
    assert_eq!(world.core.admission.used(), 0);
}

#[test]
fn a_lost_connection_keeps_its_slot_and_goes_on_where_it_was() {
    let mut world = World::new(1);
    let session = world.open(call());
    world.run_until_idle();
    world.talk(&session, 3);
    assert!(session.hold(10.0));
    session.send_pcm(&[9.0; FRAME_SIZE]).unwrap();
    world.pass(9.0);
    assert_eq!(session.info().state, "held");
    assert!(session.resume(None));
    assert!(!session.resume(None));
    let events = world.talk(&session, 2);
    // The answer to the last frame before the loss, then on; no new beginning.
    assert_eq!(audio(&events), [(2, 2e-4), (3, 0.0)]);
    assert_eq!(world.script.lock().unwrap().begun.len(), 1);
    assert!(session.hold(1.0));
    world.pass(1.2);
    assert!(!session.resume(None));
    assert_eq!(end_of(&session.events()), Some("lost"));
    assert_eq!(world.core.admission.used(), 0);
}

#[test]
fn a_slow_caller_loses_the_oldest_answers_keeps_text_and_is_ended() {
    let mut world = World::new(1);
    let session = world.open(call());
    world.run_until_idle();
    for n in 0..30 {
        session.send_pcm(&[n as f32; FRAME_SIZE]).unwrap();
        world.pass(FRAME);
    }
    let events = session.events();
    let frames: Vec<u64> = audio(&events).iter().map(|(n, _)| *n).collect();
    assert_eq!(frames, (21..29).collect::<Vec<u64>>());
    let texts = events.iter().filter(|e| matches!(e, Event::Text { .. }));
    assert_eq!(texts.count(), 29);
    // It has caught up: the count of seconds begins anew.
    for _ in 0..60 {
        session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
        world.pass(FRAME);
    }
    assert!(!session.ended());
    for _ in 0..20 {
        let _ = session.send_pcm(&[0.0; FRAME_SIZE]);
        world.pass(FRAME);
    }
    assert_eq!(end_of(&session.events()), Some("slow_consumer"));
}

#[test]
fn a_caller_that_is_too_fast_loses_audio_then_the_call() {
    let mut world = World::new(1);
    let session = world.open(call());
    world.run_until_idle();
    for _ in 0..20 {
        session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    }
    assert_eq!(session.info().backlog, 4);
    for _ in 0..120 {
        let _ = session.send_pcm(&[0.0; FRAME_SIZE]);
    }
    world.run_until_idle();
    assert_eq!(end_of(&session.events()), Some("input_too_fast"));
}

#[test]
fn the_servers_clock_puts_silence_in() {
    let mut world = World::new(1);
    let session = world.open(SessionOptions {
        server_clock: true,
        ..call()
    });
    world.run_until_idle();
    world.talk(&session, 2);
    world.steps();
    world.pass(2.0);
    let steps = world.steps().len();
    assert!((21..=24).contains(&steps), "{steps}");
    let silence = world.engine.stats().inserted_silence;
    assert_eq!(silence, steps as u64);
}

#[test]
fn pausing_stands_still() {
    let mut world = World::new(1);
    let session = world.open(SessionOptions {
        idle_seconds: Some(1.0),
        ..call()
    });
    world.run_until_idle();
    world.talk(&session, 2);
    session.pause(true);
    session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.steps();
    world.pass(5.0);
    assert!(world.steps().is_empty() && !session.ended());
    session.pause(false);
    let events = world.talk(&session, 1);
    assert_eq!(audio(&events).len(), 1);
}

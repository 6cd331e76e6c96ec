//! Who is let in, and where a conversation begins.

use super::*;

#[test]
fn callers_wait_are_told_their_place_and_get_the_slot() {
    let mut world = World::new(1);
    let first = world.open(call());
    let (second, third) = (world.open(call()), world.open(call()));
    let fourth = world.open(call());
    world.run_until_idle();
    let state = |name, position| Event::State { name, position };
    assert_eq!(first.events(), [state("active", 0)]);
    assert_eq!(second.events(), [state("queued", 1)]);
    assert_eq!(third.events(), [state("queued", 2)]);
    assert_eq!(end_of(&fourth.events()), Some("full"));
    // Audio from before the slot is lost: it would be delay for ever.
    second.send_pcm(&[0.5; FRAME_SIZE]).unwrap();
    drop(first);
    world.run_until_idle();
    assert_eq!(second.events(), [state("active", 0)]);
    assert_eq!(third.events(), [state("queued", 1)]);
    assert!(world.steps().is_empty());
    // The wait has a limit.
    world.pass(30.1);
    assert_eq!(end_of(&third.events()), Some("full"));
}

#[test]
fn each_conversation_begins_anew_with_its_seed() {
    let mut world = World::new(1);
    for seed in [5, 6] {
        let mut options = call();
        options.start.seed = seed;
        let session = world.open(options);
        world.run_until_idle();
        world.talk(&session, 3);
        drop(session);
        world.run_until_idle();
    }
    assert_eq!(world.script.lock().unwrap().begun, [(0, 5), (0, 6)]);
}

#[test]
fn draining_lets_calls_end_and_takes_nobody() {
    let mut world = World::new(1);
    let running = world.open(call());
    let waiting = world.open(call());
    world.run_until_idle();
    world.engine.draining.store(true, Ordering::SeqCst);
    world.run_until_idle();
    assert_eq!(end_of(&waiting.events()), Some("draining"));
    assert_eq!(end_of(&world.open_and_run()), Some("draining"));
    let events = world.talk(&running, 5);
    assert_eq!(audio(&events).len(), 4);
    assert_eq!(world.engine.readiness().state, "draining");
    world.engine.closed.store(true, Ordering::SeqCst);
    world.core.turn();
    assert_eq!(end_of(&running.events()), Some("closed"));
}

#[test]
fn too_many_for_the_machine_are_not_let_in_and_the_newest_goes_if_it_slows_down() {
    let mut world = World::new(4);
    world.script.lock().unwrap().per_row = 0.02;
    world.core.warm_up().unwrap();
    // 25, 45, 65 ms: the third would be above 60.
    let options = SessionOptions {
        queue_seconds: 0.0,
        ..call()
    };
    let (a, b, c) = (
        world.open(options),
        world.open(options),
        world.open(options),
    );
    world.run_until_idle();
    assert_eq!(end_of(&c.events()), Some("overloaded"));
    assert_eq!(world.engine.readiness().state, "overloaded");
    // Now and then a slow step: nobody has to go.
    for n in 0..100 {
        world.script.lock().unwrap().seconds = if n % 5 == 0 { 0.07 } else { 0.005 };
        for s in [&a, &b] {
            s.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
            s.events();
        }
        world.pass(FRAME);
    }
    world.script.lock().unwrap().seconds = 0.07;
    for _ in 0..40 {
        for s in [&a, &b] {
            let _ = s.send_pcm(&[0.0; FRAME_SIZE]);
        }
        world.pass(FRAME);
    }
    assert_eq!(end_of(&b.events()), Some("shed"));
    // Alone it is still above, but the last one stays.
    for _ in 0..60 {
        a.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
        world.pass(FRAME);
        a.events();
    }
    assert!(!a.ended());
}

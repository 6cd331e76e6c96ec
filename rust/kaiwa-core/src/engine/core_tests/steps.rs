//! Which frames a step takes, and when.

use super::*;

#[test]
fn a_frame_is_stepped_once_at_once_and_idle_sessions_cost_nothing() {
    let mut world = World::new(3);
    let (a, b, _c) = (world.open(call()), world.open(call()), world.open(call()));
    world.run_until_idle();
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    a.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    world.run_until_idle();
    assert_eq!(world.steps(), [[0]]);
    a.send_pcm(&[0.2; FRAME_SIZE]).unwrap();
    b.send_pcm(&[0.3; FRAME_SIZE - 1]).unwrap();
    world.run_until_idle();
    assert_eq!(world.steps(), [[0]]);
    b.send_pcm(&[0.3; 1]).unwrap();
    world.run_until_idle();
    assert_eq!(world.steps(), [[1]]);
    let events = a.events();
    assert_eq!(audio(&events), [(0, 0.1)]);
    // Text follows the audio it belongs to.
    assert_eq!(events.last(), Some(&Event::Text { frame: 0, token: 7 }));
}

#[test]
fn what_comes_during_a_step_goes_into_the_next_one_together() {
    let mut world = World::new(4);
    let sessions: Vec<Session> = (0..4).map(|_| world.open(call())).collect();
    world.run_until_idle();
    for s in &sessions {
        s.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    }
    world.run_until_idle();
    assert_eq!(world.steps(), [[0, 1, 2, 3]]);
}

#[test]
fn calls_whose_frames_come_together_share_a_step() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.run_until_idle();
    let frame = [0.1; FRAME_SIZE];
    for _ in 0..3 {
        a.send_pcm(&frame).unwrap();
        b.send_pcm(&frame).unwrap();
        world.pass(FRAME);
    }
    world.steps();
    // A step costs 30 ms: for the other call it is worth waiting.
    (1..=2).for_each(|rows| world.core.times.measure(rows, 0.03));
    a.send_pcm(&frame).unwrap();
    world.pass(0.006);
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    b.send_pcm(&frame).unwrap();
    world.run_until_idle();
    assert_eq!(world.steps(), [[0, 1]]);
    // But not for long, if it says nothing.
    world.pass(FRAME - 0.011);
    a.send_pcm(&frame).unwrap();
    let sent = world.hand.now();
    world.pass(0.0079);
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    world.pass(0.0002);
    assert_eq!(world.steps(), [[0]]);
    let waited = world.core.last_step.0 - sent;
    assert!((waited - 0.008).abs() < 1e-4, "{waited}");
    // Nobody waits for a call that is silent.
    world.pass(FRAME);
    a.send_pcm(&frame).unwrap();
    world.run_until_idle();
    assert_eq!(world.steps(), [[0]]);
}

#[test]
fn waiting_for_a_step_that_runs_is_no_delay_to_be_cut() {
    let mut world = World::new(2);
    world.script.lock().unwrap().seconds = 0.05;
    let (a, b) = (world.open(call()), world.open(call()));
    world.run_until_idle();
    world.steps();
    for _ in 0..100 {
        // The frame of b comes just after the step of a has begun, again and again.
        a.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
        assert_eq!(world.core.turn(), Turn::Stepped);
        b.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
        b.0.lock().input.frames.back_mut().unwrap().arrived -= 0.049;
        assert_eq!(world.core.turn(), Turn::Stepped);
        a.events();
        b.events();
    }
    assert_eq!(world.steps().len(), 200);
    assert_eq!(b.0.lock().input.dropped, 0);
}

#[test]
fn after_a_stall_answers_do_not_come_in_a_burst() {
    let mut world = World::new(1);
    let session = world.open(call());
    world.run_until_idle();
    world.talk(&session, 3);
    world.script.lock().unwrap().seconds = 0.5;
    session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    // Frames come while the step runs: the test puts them in before the turn.
    for _ in 0..4 {
        session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    }
    world.core.turn();
    world.script.lock().unwrap().seconds = 0.005;
    assert!(session.info().backlog <= 1);
    world.run_until_idle();
    session.events();
    let before = world.engine.stats().deadline_missed;
    assert_eq!(before, 1);
    assert_eq!(audio(&world.talk(&session, 3)).len(), 3);
}

#[test]
fn a_stuck_engine_shows() {
    let mut world = World::new(1);
    world.run_until_idle();
    assert!(world.engine.seconds_since_heartbeat() < 0.2);
    world.hand.turn(7.0);
    assert!(world.engine.seconds_since_heartbeat() > 5.0);
    world.run_until_idle();
    assert!(world.engine.seconds_since_heartbeat() < 0.2);
}

#[test]
fn words_without_sound_and_words_that_repeat_are_counted_once_a_call() {
    let mut world = World::new(2);
    let (mute, loud) = (world.open(call()), world.open(call()));
    world.run_until_idle();
    // With each answer there is the same word.
    for _ in 0..140 {
        mute.send_pcm(&[1e-4; FRAME_SIZE]).unwrap();
        loud.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
        world.pass(FRAME);
        mute.events();
        loud.events();
    }
    let stats = world.engine.stats().clone();
    assert_eq!((stats.silent_output, stats.looping_output), (1, 2));
}

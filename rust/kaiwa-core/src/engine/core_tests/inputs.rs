//! Kinds of input and of answers: files, text, pauses.

use super::*;

#[test]
fn a_file_is_answered_whole_however_fast_it_comes() {
    let mut world = World::new(1);
    let file = world.open(SessionOptions::default());
    world.run_until_idle();
    for n in 0..100 {
        file.send_pcm(&[n as f32; FRAME_SIZE]).unwrap();
    }
    file.send_pcm(&[100.0; 5]).unwrap();
    file.finish();
    let mut events = Vec::new();
    for _ in 0..100 {
        world.run_until_idle();
        // Answers that nobody fetched hold the session back.
        assert!(file.info().frames_out as usize <= audio(&events).len() + 8);
        events.extend(file.events());
    }
    let wanted: Vec<(u64, f32)> = (0..101).map(|n| (n, n as f32)).collect();
    assert_eq!(audio(&events), wanted);
    assert_eq!(end_of(&events), Some("finished"));
    assert_eq!(
        file.send_pcm(&[0.0]).unwrap_err().to_string(),
        Error::SessionEnded.to_string()
    );
    assert_eq!(world.core.admission.used(), 0);
}

#[test]
fn a_finished_file_waits_for_what_is_still_being_decoded() {
    let mut world = World::new(1);
    let file = world.open(SessionOptions {
        transport: Transport::Opus,
        ..SessionOptions::default()
    });
    world.run_until_idle();
    // The only thread that decodes is busy until it is told otherwise.
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    world.engine.spawn_opus(move || waits.recv().unwrap());
    let mut writer = crate::audio::OpusWriter::new(5).unwrap();
    for n in 0..3 {
        let tone: Vec<f32> = (0..FRAME_SIZE)
            .map(|i| 0.3 * (0.115 * (n * FRAME_SIZE + i) as f32).sin())
            .collect();
        file.send_bytes(writer.write(&tone).unwrap()).unwrap();
    }
    file.finish();
    world.run_until_idle();
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    go_on.send(()).unwrap();
    while file.0.lock().input.decoding() {
        std::thread::yield_now();
    }
    world.run_until_idle();
    // Three frames, and one of silence for the last answer.
    assert_eq!(world.steps().len(), 4);
    assert!(file.ended());
}

#[test]
fn text_and_pauses_without_audio_are_answers_too() {
    let mut world = World::new(1);
    world.script.lock().unwrap().silent = true;
    let session = world.open(SessionOptions::default());
    world.run_until_idle();
    for _ in 0..3 {
        session.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    }
    session.finish();
    world.run_until_idle();
    let mut wanted = vec![Event::state("active")];
    for frame in 0..3 {
        wanted.push(Event::Text { frame, token: 7 });
        wanted.push(Event::Pause {
            frame,
            probabilities: vec![0.5, 0.25],
        });
    }
    let events = session.events();
    assert_eq!(&events[..events.len() - 1], wanted);
    assert_eq!(end_of(&events), Some("finished"));
    assert_eq!(session.info().frames_out, 3);
    assert_eq!(world.engine.stats().frames_out, 3);
}

#[test]
fn what_is_said_of_the_last_frames_later_is_told_too() {
    let mut world = World::new(1);
    (
        world.script.lock().unwrap().silent,
        world.script.lock().unwrap().tail,
    ) = (true, 5);
    let session = world.open(SessionOptions::default());
    // A file's input may come before its slot.
    session.send_pcm(&[0.1; 2 * FRAME_SIZE]).unwrap();
    world.run_until_idle();
    session.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    session.finish();
    world.run_until_idle();
    let events = session.events();
    let text = events.iter().filter(|e| matches!(e, Event::Text { .. }));
    assert_eq!(text.count(), 3 + 5);
    assert_eq!(end_of(&events), Some("finished"));
}

#[test]
fn a_file_whose_text_nobody_reads_is_not_stepped_on() {
    let mut world = World::new(1);
    world.script.lock().unwrap().silent = true;
    let session = world.open(SessionOptions::default());
    world.run_until_idle();
    session.send_pcm(&[0.1; 200 * FRAME_SIZE]).unwrap();
    session.finish();
    world.run_until_idle();
    let before = world.steps().len();
    assert!(before < 40, "{before}");
    let (mut frames, mut last) = (0, None);
    while last.is_none() {
        let events = session.events();
        frames += events
            .iter()
            .filter(|e| matches!(e, Event::Text { .. }))
            .count();
        last = end_of(&events);
        world.run_until_idle();
    }
    assert_eq!((frames, last), (200, Some("finished")));
}

#[test]
fn a_pipeline_may_take_text() {
    let mut world = World::with(1, InputKind::Text);
    let session = world.open(SessionOptions::default());
    world.run_until_idle();
    session.send_text(vec![5, 6]).unwrap();
    session.send_text(vec![]).unwrap();
    session.finish();
    world.run_until_idle();
    let events = session.events();
    assert_eq!(audio(&events), [(0, 2.0), (1, 0.0)]);
    assert_eq!(end_of(&events), Some("finished"));
    let error = session.send_pcm(&[0.0]).unwrap_err().to_string();
    assert!(error.contains("send_text"), "{error}");
    let mut hears = World::new(1);
    let session = hears.open(SessionOptions::default());
    let error = session.send_text(vec![1]).unwrap_err().to_string();
    assert!(error.contains("send_pcm"), "{error}");
}

#[test]
fn input_that_is_cleared_is_not_heard_and_nobody_waits_for_its_answer() {
    for pace in [Pace::RealTime, Pace::None] {
        let mut world = World::new(1);
        let session = world.open(SessionOptions {
            pace,
            ..SessionOptions::default()
        });
        // Before the slot nothing waits.
        session.clear_input();
        world.run_until_idle();
        session.send_pcm(&[1.0; FRAME_SIZE]).unwrap();
        world.run_until_idle();
        // Two frames and a part of one, which would spoil the beginning of the next.
        session.send_pcm(&[2.0; 2 * FRAME_SIZE + 700]).unwrap();
        session.clear_input();
        assert_eq!(session.info().backlog, 0);
        session.send_pcm(&[3.0; FRAME_SIZE]).unwrap();
        session.finish();
        world.pass(1.0);
        let events = session.events();
        assert_eq!(audio(&events), [(0, 1.0), (1, 3.0)], "{pace:?}");
        assert_eq!(end_of(&events), Some("finished"));
        assert_eq!(world.engine.stats().dropped_input, 2);
        session.clear_input();
    }
}

#[test]
fn clearing_input_reaches_what_is_still_to_be_decoded_and_the_stream_goes_on() {
    let mut world = World::new(1);
    let session = world.open(SessionOptions {
        transport: Transport::Opus,
        ..SessionOptions::default()
    });
    world.run_until_idle();
    // The only thread that decodes is busy until it is told otherwise.
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    world.engine.spawn_opus(move || waits.recv().unwrap());
    let mut writer = crate::audio::OpusWriter::new(5).unwrap();
    let mut say = |session: &Session, count: usize| {
        let pages = writer.write(&vec![0.1; count * FRAME_SIZE]).unwrap();
        session.send_bytes(pages).unwrap();
    };
    // The stream's headers come with what is thrown away.
    say(&session, 3);
    session.clear_input();
    say(&session, 2);
    go_on.send(()).unwrap();
    while session.0.lock().input.decoding() {
        std::thread::yield_now();
    }
    let state = session.0.lock();
    assert_eq!((state.input.frames_in, state.input.bad_messages), (2, 0));
    assert_eq!(state.input.frames.len(), 2);
}

//! The engine in virtual time: no thread, no sleep.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::engine::clock::Clock;
use crate::engine::pace::{FRAME, Pace};
use crate::engine::session::{Session, SessionOptions, Transport};
use crate::error::Error;
use crate::pipeline::{FRAME_SIZE, FrameOut, InputKind};

/// A clock that only tests turn; microseconds.
#[derive(Default)]
struct Hand(AtomicU64);

impl Hand {
    fn turn(&self, seconds: f64) {
        self.0.fetch_add((seconds * 1e6) as u64, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> f64 {
        self.0.load(Ordering::SeqCst) as f64 / 1e6
    }
}

/// What the next steps do.
#[derive(Default)]
struct Script {
    seconds: f64,
    per_row: f64,
    fail: bool,
    /// The device fails for good.
    lose: bool,
    panic: bool,
    /// A panic when a conversation begins: outside a step.
    panic_at_begin: bool,
    /// Transcribes: text and voice activity, no audio.
    silent: bool,
    fault_slot: Option<usize>,
    /// Slots of every step.
    steps: Vec<Vec<usize>>,
    begun: Vec<(usize, u64)>,
}

fn lost() -> Error {
    Error::DeviceLost {
        device: "cuda:0".into(),
        reason: "scripted".into(),
    }
}

/// Echoes with a delay of one frame and says the token 7 with each answer.
struct Fake {
    input: InputKind,
    slots: usize,
    hand: Arc<Hand>,
    script: Arc<Mutex<Script>>,
    last: Vec<Option<Vec<f32>>>,
}

impl Pipeline for Fake {
    fn input(&self) -> InputKind {
        self.input
    }
    fn slots(&self) -> usize {
        self.slots
    }
    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        self.last[slot] = None;
        let mut script = self.script.lock().unwrap();
        script.begun.push((slot, start.seed));
        let (panic, lose) = (script.panic_at_begin, script.lose);
        drop(script);
        assert!(!panic, "scripted");
        if lose { Err(lost()) } else { Ok(()) }
    }
    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        let slots: Vec<usize> = rows.iter().map(|(slot, _)| *slot).collect();
        let mut script = self.script.lock().unwrap();
        self.hand
            .turn(script.seconds + script.per_row * rows.len() as f64);
        script.steps.push(slots);
        let (fail, panic, fault) = (script.fail, script.panic, script.fault_slot);
        let lose = script.lose;
        let silent = script.silent;
        drop(script);
        assert!(!panic, "scripted");
        if fail {
            return Err(Error::EngineClosed);
        }
        if lose {
            return Err(lost());
        }
        let answer = |(slot, frame): &(usize, FrameIn<'_>)| {
            let fault = (fault == Some(*slot)).then(|| "scripted".to_owned());
            match frame {
                FrameIn::Audio(pcm) => {
                    let audio = self.last[*slot].replace(pcm.to_vec());
                    FrameOut {
                        text: audio.as_ref().map(|_| 7),
                        voice: audio.as_ref().filter(|_| silent).map(|_| 0.5),
                        audio: audio.filter(|_| !silent),
                        fault,
                    }
                }
                FrameIn::Text(tokens) => FrameOut {
                    audio: Some(vec![tokens.len() as f32; FRAME_SIZE]),
                    fault,
                    ..FrameOut::default()
                },
            }
        };
        Ok(rows.iter().map(answer).collect())
    }
    fn renew(&mut self) -> Result<()> {
        Ok(())
    }
    fn state_bytes(&self) -> usize {
        0
    }
    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        vec![("lm", 0.0)]
    }
    fn delay(&self) -> usize {
        1
    }
}

struct World {
    core: Core,
    engine: Arc<EngineShared>,
    hand: Arc<Hand>,
    script: Arc<Mutex<Script>>,
    next: u64,
}

impl World {
    fn new(slots: usize) -> Self {
        Self::with(slots, InputKind::Audio)
    }

    fn with(slots: usize, input: InputKind) -> Self {
        let hand = Arc::new(Hand::default());
        let script = Arc::new(Mutex::new(Script {
            seconds: 0.005,
            ..Script::default()
        }));
        let engine = Arc::new(EngineShared::new(hand.clone(), input, 1, 5).unwrap());
        let fake = Fake {
            input,
            slots,
            hand: hand.clone(),
            script: script.clone(),
            last: vec![None; slots],
        };
        let limits = Limits {
            queue: 2,
            step_budget: 0.06,
        };
        let mut core = Core::new(Box::new(fake), engine.clone(), limits);
        core.warm_up().unwrap();
        script.lock().unwrap().steps.clear();
        script.lock().unwrap().begun.clear();
        Self {
            core,
            engine,
            hand,
            script,
            next: 1,
        }
    }

    fn open(&mut self, options: SessionOptions) -> Session {
        let inner = SessionInner::new(self.next, self.engine.clone(), options, None);
        self.next += 1;
        self.core.registry.request(inner.clone()).unwrap();
        Session(inner)
    }

    /// Turns until there is nothing to do now.
    fn settle(&mut self) {
        for _ in 0..1000 {
            match self.core.turn() {
                Turn::Stepped => {}
                _ => return,
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Lets `seconds` pass as the engine's thread would see them.
    fn pass(&mut self, seconds: f64) {
        let end = self.hand.now() + seconds;
        while self.hand.now() < end {
            let next = match self.core.turn() {
                Turn::Stepped => continue,
                Turn::Idle(next) => next.min(end),
                Turn::Closed => end,
            };
            self.hand.turn((next - self.hand.now()).max(1e-6));
        }
    }

    /// A caller that speaks for `frames` frames and listens, one frame each 80 ms.
    fn talk(&mut self, session: &Session, frames: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for n in 0..frames {
            session.send_pcm(&[n as f32 / 1e4; FRAME_SIZE]).unwrap();
            self.pass(FRAME);
            events.extend(session.events());
        }
        events
    }

    fn steps(&self) -> Vec<Vec<usize>> {
        std::mem::take(&mut self.script.lock().unwrap().steps)
    }
}

fn call() -> SessionOptions {
    SessionOptions {
        pace: Pace::RealTime,
        ..SessionOptions::default()
    }
}

fn end_of(events: &[Event]) -> Option<&'static str> {
    match events.last() {
        Some(Event::End { reason, .. }) => Some(reason.as_str()),
        _ => None,
    }
}

fn audio(events: &[Event]) -> Vec<(u64, f32)> {
    let one = |e: &Event| match e {
        Event::Audio { frame, pcm } => Some((*frame, pcm[0])),
        _ => None,
    };
    events.iter().filter_map(one).collect()
}

#[test]
fn a_frame_is_stepped_once_at_once_and_idle_sessions_cost_nothing() {
    let mut world = World::new(3);
    let (a, b, _c) = (world.open(call()), world.open(call()), world.open(call()));
    world.settle();
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    a.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    world.settle();
    assert_eq!(world.steps(), [[0]]);
    a.send_pcm(&[0.2; FRAME_SIZE]).unwrap();
    b.send_pcm(&[0.3; FRAME_SIZE - 1]).unwrap();
    world.settle();
    assert_eq!(world.steps(), [[0]]);
    b.send_pcm(&[0.3; 1]).unwrap();
    world.settle();
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
    world.settle();
    for s in &sessions {
        s.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    }
    world.settle();
    assert_eq!(world.steps(), [[0, 1, 2, 3]]);
}

#[test]
fn calls_whose_frames_come_together_share_a_step() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.settle();
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
    world.settle();
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
    world.settle();
    assert_eq!(world.steps(), [[0]]);
}

#[test]
fn waiting_for_a_step_that_runs_is_no_delay_to_be_cut() {
    let mut world = World::new(2);
    world.script.lock().unwrap().seconds = 0.05;
    let (a, b) = (world.open(call()), world.open(call()));
    world.settle();
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
fn a_file_is_answered_whole_however_fast_it_comes() {
    let mut world = World::new(1);
    let file = world.open(SessionOptions::default());
    world.settle();
    for n in 0..100 {
        file.send_pcm(&[n as f32; FRAME_SIZE]).unwrap();
    }
    file.send_pcm(&[100.0; 5]).unwrap();
    file.finish();
    let mut events = Vec::new();
    for _ in 0..100 {
        world.settle();
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
    world.settle();
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
    world.settle();
    assert_eq!(world.steps(), Vec::<Vec<usize>>::new());
    go_on.send(()).unwrap();
    while file.0.lock().input.decoding() {
        std::thread::yield_now();
    }
    world.settle();
    // Three frames, and one of silence for the last answer.
    assert_eq!(world.steps().len(), 4);
    assert!(file.ended());
}

#[test]
fn callers_wait_are_told_their_place_and_get_the_slot() {
    let mut world = World::new(1);
    let first = world.open(call());
    let (second, third) = (world.open(call()), world.open(call()));
    let fourth = world.open(call());
    world.settle();
    let state = |name, position| Event::State { name, position };
    assert_eq!(first.events(), [state("active", 0)]);
    assert_eq!(second.events(), [state("queued", 1)]);
    assert_eq!(third.events(), [state("queued", 2)]);
    assert_eq!(end_of(&fourth.events()), Some("full"));
    // Audio from before the slot is lost: it would be delay for ever.
    second.send_pcm(&[0.5; FRAME_SIZE]).unwrap();
    drop(first);
    world.settle();
    assert_eq!(second.events(), [state("active", 0)]);
    assert_eq!(third.events(), [state("queued", 1)]);
    assert!(world.steps().is_empty());
    // Patience has an end.
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
        world.settle();
        world.talk(&session, 3);
        drop(session);
        world.settle();
    }
    assert_eq!(world.script.lock().unwrap().begun, [(0, 5), (0, 6)]);
}

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
    world.settle();
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
    world.settle();
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
    world.settle();
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
    world.settle();
    for _ in 0..20 {
        session.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    }
    assert_eq!(session.info().backlog, 4);
    for _ in 0..120 {
        let _ = session.send_pcm(&[0.0; FRAME_SIZE]);
    }
    world.settle();
    assert_eq!(end_of(&session.events()), Some("input_too_fast"));
}

#[test]
fn the_servers_clock_puts_silence_in() {
    let mut world = World::new(1);
    let session = world.open(SessionOptions {
        server_clock: true,
        ..call()
    });
    world.settle();
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
    world.settle();
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

#[test]
fn draining_lets_calls_end_and_takes_nobody() {
    let mut world = World::new(1);
    let running = world.open(call());
    let waiting = world.open(call());
    world.settle();
    world.engine.draining.store(true, Ordering::SeqCst);
    world.settle();
    assert_eq!(end_of(&waiting.events()), Some("draining"));
    assert_eq!(end_of(&world.open_and_settle()), Some("draining"));
    let events = world.talk(&running, 5);
    assert_eq!(audio(&events).len(), 4);
    assert_eq!(world.engine.readiness().state, "draining");
    world.engine.closed.store(true, Ordering::SeqCst);
    world.core.turn();
    assert_eq!(end_of(&running.events()), Some("closed"));
}

impl World {
    fn open_and_settle(&mut self) -> Vec<Event> {
        let session = self.open(call());
        self.settle();
        session.events()
    }
}

#[test]
fn a_fault_stays_in_its_slot() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.settle();
    world.script.lock().unwrap().fault_slot = Some(0);
    a.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    b.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.settle();
    assert_eq!(end_of(&a.events()), Some("error"));
    world.script.lock().unwrap().fault_slot = None;
    let events = world.talk(&b, 2);
    assert_eq!(audio(&events).len(), 2);
}

#[test]
fn a_failed_step_and_a_panic_end_sessions_not_the_engine() {
    let mut world = World::new(2);
    let (a, b) = (world.open(call()), world.open(call()));
    world.settle();
    world.script.lock().unwrap().fail = true;
    a.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.settle();
    world.script.lock().unwrap().fail = false;
    assert_eq!(end_of(&a.events()), Some("error"));
    assert!(!b.ended());
    world.script.lock().unwrap().panic = true;
    b.send_pcm(&[0.0; FRAME_SIZE]).unwrap();
    world.settle();
    world.script.lock().unwrap().panic = false;
    assert_eq!(end_of(&b.events()), Some("error"));
    assert_eq!(world.engine.stats().panics, 1);
    let c = world.open(call());
    world.settle();
    assert_eq!(audio(&world.talk(&c, 3)).len(), 2);
}

#[test]
fn a_lost_device_ends_every_session_with_its_message_and_closes_the_engine() {
    // It is seen in a step, or when a conversation begins.
    for at_begin in [false, true] {
        let mut world = World::new(2);
        let (speaking, silent) = (world.open(call()), world.open(call()));
        world.settle();
        let queued = world.open(call());
        world.settle();
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
        assert_eq!(world.engine.readiness().state, "closed");
        assert_eq!(world.engine.stats().panics, 0);
    }
}

#[test]
fn a_panic_outside_a_step_is_counted_told_to_everybody_and_closes_the_engine() {
    let mut world = World::new(2);
    let (running, another) = (world.open(call()), world.open(call()));
    let queued = world.open(call());
    world.settle();
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
    assert_eq!(world.engine.readiness().state, "closed");
    let late = SessionInner::new(9, world.engine.clone(), call(), None);
    assert!(world.core.registry.request(late).is_err());
    assert!(world.core.registry.sessions().is_empty());
    assert_eq!(world.core.admission.used(), 0);
}

#[test]
fn text_and_voice_activity_without_audio_are_answers_too() {
    let mut world = World::new(1);
    world.script.lock().unwrap().silent = true;
    let session = world.open(SessionOptions::default());
    world.settle();
    for _ in 0..3 {
        session.send_pcm(&[0.1; FRAME_SIZE]).unwrap();
    }
    session.finish();
    world.settle();
    let mut wanted = vec![Event::state("active")];
    for frame in 0..3 {
        wanted.push(Event::Text { frame, token: 7 });
        wanted.push(Event::Voice {
            frame,
            probability: 0.5,
        });
    }
    let events = session.events();
    assert_eq!(&events[..events.len() - 1], wanted);
    assert_eq!(end_of(&events), Some("finished"));
    assert_eq!(session.info().frames_out, 3);
    assert_eq!(world.engine.stats().frames_out, 3);
}

#[test]
fn a_pipeline_may_take_text() {
    let mut world = World::with(1, InputKind::Text);
    let session = world.open(SessionOptions::default());
    world.settle();
    session.send_text(vec![5, 6]).unwrap();
    session.send_text(vec![]).unwrap();
    session.finish();
    world.settle();
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
fn after_a_stall_answers_do_not_come_in_a_burst() {
    let mut world = World::new(1);
    let session = world.open(call());
    world.settle();
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
    world.settle();
    session.events();
    let before = world.engine.stats().deadline_missed;
    assert_eq!(before, 1);
    assert_eq!(audio(&world.talk(&session, 3)).len(), 3);
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
    world.settle();
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

#[test]
fn a_stuck_engine_shows() {
    let mut world = World::new(1);
    world.settle();
    assert!(world.engine.seconds_since_heartbeat() < 0.2);
    world.hand.turn(7.0);
    assert!(world.engine.seconds_since_heartbeat() > 5.0);
    world.settle();
    assert!(world.engine.seconds_since_heartbeat() < 0.2);
}

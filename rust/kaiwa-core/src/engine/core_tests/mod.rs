//! The engine in virtual time: no thread, no sleep.

mod entry;
mod faults;
mod inputs;
mod limits;
#[cfg(feature = "cuda-sim")]
mod lost_card;
mod steps;

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
    /// Transcribes: text and pauses, no audio.
    silent: bool,
    tail: usize,
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
                        pauses: match &audio {
                            Some(_) if silent => vec![0.5, 0.25],
                            _ => Vec::new(),
                        },
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
    fn tail(&self) -> usize {
        self.script.lock().unwrap().tail
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
        Self::over(Box::new(fake), engine, hand, script)
    }

    /// Around any pipeline; the script is that of the fake one.
    fn over(
        pipeline: Box<dyn Pipeline>,
        engine: Arc<EngineShared>,
        hand: Arc<Hand>,
        script: Arc<Mutex<Script>>,
    ) -> Self {
        let limits = Limits {
            queue: 2,
            step_budget: 0.06,
        };
        let mut core = Core::new(pipeline, engine.clone(), limits);
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
    fn run_until_idle(&mut self) {
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

impl World {
    fn open_and_run(&mut self) -> Vec<Event> {
        let session = self.open(call());
        self.run_until_idle();
        session.events()
    }
}

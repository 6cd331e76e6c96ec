//! An engine without a thread: its owner turns the clock and the core. For simulations, in which
//! hours pass in milliseconds and the same seed gives the same events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::Clock;
use super::core::{Core, Turn};
use super::{Engine, EngineOptions};
use crate::error::{Error, Result};
use crate::pipeline::{FrameIn, FrameOut, Pipeline, Start};

/// Steps that one [`ByHand::turn`] makes at most. More would mean that the engine does not come to
/// rest, and an owner has to be able to see that.
const MOST_STEPS: usize = 64;

/// A clock that goes only when it is turned; its value is the bits of an `f64`.
#[derive(Default)]
struct HandClock(AtomicU64);

impl HandClock {
    /// Turns it on to `now`; never back.
    fn turn_to(&self, now: f64) {
        if now > self.now() {
            self.0.store(now.to_bits(), Ordering::SeqCst);
        }
    }
}

impl Clock for HandClock {
    fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::SeqCst))
    }
}

/// What becomes of the next step of a [`ByHand`] engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails.
    Error,
    /// It panics.
    Panic,
    /// The device fails, and every later step with it.
    Device,
    /// The answer of its first row is not finite.
    Row,
}

/// One row of a step, as the pipeline was given it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SteppedRow {
    /// The slot.
    pub slot: usize,
    /// Seed of the conversation that began there last.
    pub seed: u64,
    /// The first two samples, by which a simulated caller numbers its frames.
    pub head: [f32; 2],
}

#[derive(Default)]
struct Script {
    /// Seconds of a step with no rows, and of each row.
    seconds: (f64, f64),
    fault: Option<Fault>,
    /// Rows of all steps since they were last asked for.
    steps: Vec<SteppedRow>,
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives every frame back, takes as long as it is told by the engine's clock, and fails when it is
/// told to.
struct Scripted {
    clock: Arc<HandClock>,
    script: Arc<Mutex<Script>>,
    /// Seed of the conversation in each slot.
    seeds: Vec<u64>,
}

impl Pipeline for Scripted {
    fn slots(&self) -> usize {
        self.seeds.len()
    }

    fn begin(&mut self, slot: usize, start: &Start) -> Result<()> {
        self.seeds[slot] = start.seed;
        Ok(())
    }

    fn step(&mut self, rows: &[(usize, FrameIn<'_>)]) -> Result<Vec<FrameOut>> {
        let mut script = lock(&self.script);
        let (base, per_row) = script.seconds;
        let seconds = base + per_row * rows.len() as f64;
        self.clock.turn_to(self.clock.now() + seconds);
        for (slot, frame) in rows {
            let head = match frame {
                FrameIn::Audio([first, second, ..]) => [*first, *second],
                _ => [0.0; 2],
            };
            script.steps.push(SteppedRow {
                slot: *slot,
                seed: self.seeds[*slot],
                head,
            });
        }
        let fault = script.fault;
        if fault != Some(Fault::Device) {
            script.fault = None;
        }
        drop(script);
        match fault {
            Some(Fault::Error) => {
                return Err(
                    candle_core::Error::Msg("a simulated step failed; call again".into()).into(),
                );
            }
            Some(Fault::Device) => {
                return Err(Error::DeviceLost {
                    device: "simulated".into(),
                    reason: "a simulated device failed; use another".into(),
                });
            }
            // Without the message that a panic prints.
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("a simulated panic")),
            Some(Fault::Row) | None => {}
        }
        let answers = rows.iter().enumerate().map(|(at, (_, frame))| FrameOut {
            audio: match frame {
                FrameIn::Audio(pcm) => Some(pcm.to_vec()),
                FrameIn::Text(_) => None,
            },
            fault: (at == 0 && fault == Some(Fault::Row))
                .then(|| "a simulated answer is not finite; call again".into()),
            ..FrameOut::default()
        });
        Ok(answers.collect())
    }

    fn renew(&mut self) -> Result<()> {
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn stage_seconds(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    fn delay(&self) -> usize {
        0
    }
}

/// What turns an engine that [`Engine::by_hand`] made. Its model gives every frame back.
pub struct ByHand {
    core: Core,
    clock: Arc<HandClock>,
    script: Arc<Mutex<Script>>,
}

impl Engine {
    /// An engine without a thread, whose clock stands at 0, and what turns it. Nothing happens in
    /// it between two calls of [`ByHand::turn`].
    ///
    /// # Errors
    /// [`Error::OptionValue`] for no slots or bad settings; [`Error::Thread`].
    pub fn by_hand(slots: usize, options: EngineOptions) -> Result<(Self, ByHand)> {
        if slots == 0 {
            return Err(Error::OptionValue {
                name: "slots",
                got: "0".into(),
                allowed: "at least 1".into(),
            });
        }
        let clock = Arc::new(HandClock::default());
        let script = Arc::<Mutex<Script>>::default();
        let pipeline = Scripted {
            clock: clock.clone(),
            script: script.clone(),
            seeds: vec![0; slots],
        };
        let (engine, core) = Self::prepare(Box::new(pipeline), options, clock.clone())?;
        lock(&script).steps.clear();
        Ok((
            engine,
            ByHand {
                core,
                clock,
                script,
            },
        ))
    }
}

impl ByHand {
    /// Turns the clock to `now` (seconds; never back) and does nothing else: what an engine whose
    /// thread hangs does.
    pub fn tick(&self, now: f64) {
        self.clock.turn_to(now);
    }

    /// Turns the clock to `now` (seconds; never back) and does all that is to be done then. Gives
    /// when there will be more to do, unless something wakes the engine before; `None` once it is
    /// closed.
    pub fn turn(&mut self, now: f64) -> Option<f64> {
        self.clock.turn_to(now);
        self.core.engine.take_wake();
        for _ in 0..MOST_STEPS {
            match self.core.guarded_turn() {
                Turn::Stepped => {}
                Turn::Idle(until) => return Some(until),
                Turn::Closed => return None,
            }
        }
        Some(self.clock.now())
    }

    /// Whether something woke the engine since its last turn.
    pub fn woken(&self) -> bool {
        self.core.engine.is_woken()
    }

    /// From now on a step of n rows takes `base + n * per_row` seconds.
    pub fn set_step_seconds(&mut self, base: f64, per_row: f64) {
        lock(&self.script).seconds = (base, per_row);
    }

    /// What becomes of the next step.
    pub fn set_fault(&mut self, fault: Fault) {
        lock(&self.script).fault = Some(fault);
    }

    /// The rows of all steps since the last call, in order.
    pub fn take_steps(&mut self) -> Vec<SteppedRow> {
        std::mem::take(&mut lock(&self.script).steps)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::engine::{Event, Pace, Session, SessionOptions, Transport};
    use crate::pipeline::FRAME_SIZE;

    fn engine() -> (Engine, ByHand) {
        let options = EngineOptions {
            opus_threads: 1,
            ..EngineOptions::default()
        };
        Engine::by_hand(2, options).unwrap()
    }

    fn call(engine: &Engine, seed: u64) -> Session {
        let options = SessionOptions {
            start: Start {
                seed,
                sampling: None,
            },
            transport: Transport::Pcm,
            pace: Pace::RealTime,
            ..SessionOptions::default()
        };
        engine.open(options, None).unwrap()
    }

    fn frame(number: f32) -> Vec<f32> {
        let mut pcm = vec![0.0; FRAME_SIZE];
        pcm[0] = number;
        pcm
    }

    #[test]
    fn nothing_happens_between_turns_and_frames_come_back() {
        let (engine, mut hand) = engine();
        let session = call(&engine, 9);
        assert!(session.events().is_empty() && hand.woken());
        assert!(hand.turn(1.0).is_some_and(|next| next > 1.0));
        assert!(!hand.woken());
        session.send_pcm(&frame(0.5)).unwrap();
        assert!(hand.woken());
        assert_eq!(engine.stats().frames_out, 0);
        hand.turn(1.02);
        let expected = SteppedRow {
            slot: 0,
            seed: 9,
            head: [0.5, 0.0],
        };
        assert_eq!(hand.take_steps(), [expected]);
        let audio = |e: &Event| matches!(e, Event::Audio { pcm, .. } if pcm[0] == 0.5);
        assert_eq!(session.events().iter().filter(|e| audio(e)).count(), 1);
        assert_eq!(engine.now(), 1.02);
        hand.tick(9.0);
        assert!(engine.seconds_since_heartbeat() > 7.0);
    }

    #[test]
    fn steps_take_time_and_faults_happen_once() {
        let (engine, mut hand) = engine();
        let sessions = [call(&engine, 1), call(&engine, 2)];
        hand.turn(0.1);
        hand.set_step_seconds(0.01, 0.002);
        for session in &sessions {
            session.send_pcm(&frame(0.0)).unwrap();
        }
        // Frames that come together are stepped together.
        hand.turn(0.2);
        assert!((engine.now() - 0.214).abs() < 1e-9, "{}", engine.now());
        hand.set_fault(Fault::Row);
        for session in &sessions {
            session.send_pcm(&frame(0.0)).unwrap();
        }
        hand.turn(0.3);
        hand.turn(0.4);
        assert!(sessions[0].ended() && !sessions[1].ended());
        hand.set_fault(Fault::Panic);
        sessions[1].send_pcm(&frame(0.0)).unwrap();
        hand.turn(0.5);
        hand.turn(0.6);
        assert!(sessions[1].ended());
        let another = call(&engine, 3);
        hand.turn(0.7);
        assert!(!another.ended() && hand.turn(0.8).is_some());
        engine.close();
        assert_eq!(hand.turn(0.9), None);
        assert!(another.ended());
    }
}

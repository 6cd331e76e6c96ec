//! The queues of one session, and what its caller may do with them.
//!
//! Lock order: a session's state is locked alone or before the engine's counters, never the other
//! way round, and never two sessions at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::hub::{Hub, Notifier};
use super::pace::{Pace, Pacer};
use super::pipeline::{FRAME_SIZE, Start};
use super::reason::EndReason;
use crate::audio::{OpusReader, OpusWriter, samples};
use crate::error::{Error, Result};

/// Answers that wait for their caller; beyond, a call's oldest is dropped (640 ms).
pub(super) const OUT_FRAMES: usize = 8;
/// Input that waits until a caller that is not paced has to wait.
const ROOM: usize = 8;
/// Encoded bytes that may wait to be decoded.
const RAW_BYTES: usize = 1 << 20;
/// Seconds of dropping answers without a break until a caller counts as too slow.
const SLOW: f64 = 5.0;

/// How audio crosses the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Samples, 24 kHz mono.
    #[default]
    Pcm,
    /// Opus in Ogg pages.
    Opus,
}

/// What a session is to be.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Seed and sampling.
    pub start: Start,
    /// How audio crosses the border.
    pub transport: Transport,
    /// How input is taken.
    pub pace: Pace,
    /// Put silence in where the caller sends nothing for 200 ms.
    pub server_clock: bool,
    /// Seconds from slot to end.
    pub max_seconds: Option<f64>,
    /// Frames of input from slot to end.
    pub max_frames: Option<u64>,
    /// Seconds without input until the end.
    pub idle_seconds: Option<f64>,
    /// Seconds the caller is ready to wait for a slot; 0 to be told at once.
    pub queue_seconds: f64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            start: Start::default(),
            transport: Transport::Pcm,
            pace: Pace::None,
            server_clock: false,
            max_seconds: None,
            max_frames: None,
            idle_seconds: None,
            queue_seconds: 30.0,
        }
    }
}

/// What a session tells its caller. Frames count from 0 in steps of 80 ms.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It waits (`queued`, with its place; 1 is next), or runs (`active`).
    State {
        /// The word for it.
        name: &'static str,
        /// Place in the queue, else 0.
        position: usize,
    },
    /// An answer: 1920 samples.
    Audio {
        /// Number of the frame.
        frame: u64,
        /// Samples at 24 kHz.
        pcm: Vec<f32>,
    },
    /// An answer as whole Ogg pages.
    Pages {
        /// Number of the frame.
        frame: u64,
        /// The pages.
        bytes: Vec<u8>,
    },
    /// A text token of an answer, after its audio.
    Text {
        /// Number of the frame.
        frame: u64,
        /// The token.
        token: i32,
    },
    /// The last event.
    End {
        /// Why it ended.
        reason: EndReason,
        /// A sentence, or nothing where the word says all.
        message: String,
    },
}

/// A session's figures.
#[derive(Debug, Clone, Default)]
pub struct SessionInfo {
    /// Its number.
    pub id: u64,
    /// `queued`, `active`, `held`, `paused` or `ended`.
    pub state: &'static str,
    /// Its slot.
    pub slot: Option<usize>,
    /// Place in the queue, else 0.
    pub position: usize,
    /// Seconds since it got its slot.
    pub seconds: f64,
    /// Frames taken in.
    pub frames_in: u64,
    /// Answers made.
    pub frames_out: u64,
    /// Frames waiting.
    pub backlog: usize,
    /// Frames of the caller that were dropped.
    pub dropped_input: u64,
    /// Answers that were dropped.
    pub dropped_output: u64,
    /// Seed of its sampling.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Queued(usize),
    Active(usize),
    Ended,
}

/// A frame of input.
pub(super) struct InFrame {
    pub pcm: Vec<f32>,
    /// When its last sample came.
    pub arrived: f64,
}

/// What waits to be handed out.
pub(super) enum Out {
    Frame {
        number: u64,
        pcm: Vec<f32>,
        /// When the last sample of its input came, and how long its step took.
        timing: (f64, f64),
    },
    Event(Event),
}

pub(super) struct State {
    pub phase: Phase,
    pub held_until: Option<f64>,
    pub paused: bool,
    pub opened: f64,
    pub started: f64,
    pub heard: f64,
    pub pacer: Pacer,
    pub frames: VecDeque<InFrame>,
    pub finished: bool,
    /// Frames of input so far, and those of them (or silence) that were stepped.
    pub frames_in: u64,
    pub stepped: u64,
    pub frames_out: u64,
    pub dropped_input: u64,
    pub dropped_output: u64,
    /// The caller wants to end, or the engine has ended it and its slot is still to be freed.
    pub closing: Option<(EndReason, String)>,
    partial: Vec<f32>,
    raw: VecDeque<(Vec<u8>, f64)>,
    raw_bytes: usize,
    reading: bool,
    reader: Option<OpusReader>,
    out: VecDeque<Out>,
    out_frames: usize,
    ready: VecDeque<(Event, Option<(f64, f64)>)>,
    writing: bool,
    writer: Option<OpusWriter>,
    /// Counts connections: what belongs to a former one is thrown away.
    connection: u64,
    dropping_since: Option<f64>,
    notifier: Option<Arc<Notifier>>,
    bad_messages: u64,
}

impl State {
    /// Whether encoded input is still on its way to the queue.
    pub fn decoding(&self) -> bool {
        self.reading || !self.raw.is_empty()
    }
}

pub(super) struct Shared {
    pub id: u64,
    pub options: SessionOptions,
    pub hub: Arc<Hub>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub fn new(
        id: u64,
        hub: Arc<Hub>,
        options: SessionOptions,
        notifier: Option<Arc<Notifier>>,
    ) -> Arc<Self> {
        let now = hub.clock.now();
        let state = State {
            phase: Phase::Queued(0),
            held_until: None,
            paused: false,
            opened: now,
            started: now,
            heard: now,
            pacer: Pacer::new(options.pace, now),
            frames: VecDeque::new(),
            finished: false,
            frames_in: 0,
            stepped: 0,
            frames_out: 0,
            dropped_input: 0,
            dropped_output: 0,
            closing: None,
            partial: Vec::new(),
            raw: VecDeque::new(),
            raw_bytes: 0,
            reading: false,
            reader: None,
            out: VecDeque::new(),
            out_frames: 0,
            ready: VecDeque::new(),
            writing: false,
            writer: None,
            connection: 0,
            dropping_since: None,
            notifier,
            bad_messages: 0,
        };
        Arc::new(Self {
            id,
            options,
            hub,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the caller that something changed.
    pub fn tell(&self, state: &State) {
        self.changed.notify_all();
        if let Some(notifier) = &state.notifier {
            notifier.tell(self.id);
        }
    }

    // ---- input -------------------------------------------------------------------------

    /// Whether input counts now: audio from before the slot, or while paused or held, is lost.
    fn hears(state: &State) -> bool {
        matches!(state.phase, Phase::Active(_))
            && !state.paused
            && !state.finished
            && state.held_until.is_none()
            && state.closing.is_none()
    }

    /// Drops the frames that wait; they count as dropped, so that nobody waits for their answers.
    fn forget_input(&self, state: &mut State) {
        let dropped = state.frames.len() as u64;
        state.frames.clear();
        state.partial.clear();
        state.dropped_input += dropped;
        self.hub.stats().dropped_input += dropped;
    }

    /// Samples into frames, frames into the queue.
    fn accept(&self, state: &mut State, pcm: &[f32], arrived: f64) {
        state.heard = arrived;
        state.partial.extend_from_slice(pcm);
        let whole = state.partial.len() / FRAME_SIZE;
        let (mut dropped, mut too_fast) = (0, false);
        for n in 0..whole {
            let pcm = state.partial[n * FRAME_SIZE..][..FRAME_SIZE].to_vec();
            state.frames.push_back(InFrame { pcm, arrived });
            state.frames_in += 1;
            let arrival = state.pacer.arrived(arrived, state.frames.len());
            state.frames.drain(..arrival.drop);
            dropped += arrival.drop;
            too_fast |= arrival.too_fast;
        }
        state.partial.drain(..whole * FRAME_SIZE);
        state.dropped_input += dropped as u64;
        if too_fast && state.closing.is_none() {
            let message = "audio came more than ten seconds faster than real time; send one frame \
                           each 80 ms, or connect with pace=none";
            state.closing = Some((EndReason::InputTooFast, message.into()));
        }
        if whole > 0 {
            let mut stats = self.hub.stats();
            stats.frames_in += whole as u64;
            stats.dropped_input += dropped as u64;
            drop(stats);
            self.hub.ring();
        }
    }

    /// Decodes what has come, on a thread of the Opus pool.
    fn read_raw(self: &Arc<Self>) {
        let mut pcm = Vec::new();
        loop {
            let mut state = self.lock();
            let Some((bytes, arrived)) = state.raw.pop_front() else {
                state.reading = false;
                self.tell(&state);
                if state.finished {
                    self.hub.ring();
                }
                return;
            };
            state.raw_bytes -= bytes.len();
            let connection = state.connection;
            let reader = state.reader.take();
            drop(state);

            let started = Instant::now();
            let mut reader = match reader.map_or_else(OpusReader::new, Ok) {
                Ok(reader) => reader,
                Err(error) => {
                    let mut state = self.lock();
                    state.reading = false;
                    self.close_with(&mut state, EndReason::Error, error.to_string());
                    return;
                }
            };
            pcm.clear();
            let summary = reader.read(&bytes, &mut pcm);
            let seconds = started.elapsed().as_secs_f64();

            let mut state = self.lock();
            if state.connection != connection {
                continue;
            }
            state.reader = Some(reader);
            if summary.packets == 0 && summary.stray_bytes > 0 {
                state.bad_messages += 1;
            }
            {
                let mut stats = self.hub.stats();
                stats.stage("opus_decode", seconds);
                stats.bad_packets += summary.bad_packets as u64;
            }
            // What was sent before the end of input counts.
            let finished = std::mem::replace(&mut state.finished, false);
            let hears = Self::hears(&state);
            state.finished = finished;
            if hears {
                self.accept(&mut state, &pcm, arrived);
            }
        }
    }

    /// Whether all input is in the queue, once there is no more to come: the last frame is
    /// filled up with silence.
    pub fn settle(&self, state: &mut State) -> bool {
        if state.decoding() {
            return false;
        }
        if !state.partial.is_empty() {
            let missing = FRAME_SIZE - state.partial.len();
            let now = self.hub.clock.now();
            self.accept(state, &vec![0.0; missing], now);
        }
        true
    }

    // ---- output ------------------------------------------------------------------------

    /// Puts an event behind what waits to be handed out.
    pub fn post(self: &Arc<Self>, state: &mut State, event: Event) {
        state.out.push_back(Out::Event(event));
        self.advance(state);
    }

    /// Puts an answer behind what waits; drops a call's oldest where too many wait.
    pub fn answer(self: &Arc<Self>, state: &mut State, pcm: Vec<f32>, timing: (f64, f64)) {
        let number = state.frames_out;
        state.frames_out += 1;
        state.out.push_back(Out::Frame {
            number,
            pcm,
            timing,
        });
        state.out_frames += 1;
        if state.out_frames > OUT_FRAMES && self.options.pace == Pace::RealTime {
            let oldest = state
                .out
                .iter()
                .position(|o| matches!(o, Out::Frame { .. }));
            if let Some(oldest) = oldest {
                state.out.remove(oldest);
                state.out_frames -= 1;
                state.dropped_output += 1;
                self.hub.stats().dropped_output += 1;
            }
            let now = self.hub.clock.now();
            let since = *state.dropping_since.get_or_insert(now);
            if now - since >= SLOW && state.closing.is_none() {
                let message = "answers were not fetched for five seconds; read faster or use a \
                               better connection";
                state.closing = Some((EndReason::SlowConsumer, message.into()));
            }
        }
        self.advance(state);
    }

    /// Whether another answer has room.
    pub fn has_out_room(&self, state: &State) -> bool {
        self.options.pace == Pace::RealTime || state.out_frames < OUT_FRAMES
    }

    /// Moves what waits on towards the caller: events as they are; answers as samples when they
    /// are fetched, or encoded one at a time, so that what is dropped was never encoded.
    fn advance(self: &Arc<Self>, state: &mut State) {
        let mut moved = false;
        while let Some(front) = state.out.front() {
            let is_frame = matches!(front, Out::Frame { .. });
            if is_frame {
                if self.options.transport == Transport::Pcm {
                    // Handed out on fetching; see `fetch`.
                    moved = true;
                    break;
                }
                let encoded = state
                    .ready
                    .iter()
                    .any(|(e, _)| matches!(e, Event::Pages { .. }));
                if !state.writing && !encoded {
                    state.writing = true;
                    let this = self.clone();
                    self.hub.opus(move || this.encode());
                }
                break;
            }
            if state.writing {
                break;
            }
            if let Some(Out::Event(event)) = state.out.pop_front() {
                state.ready.push_back((event, None));
                moved = true;
            }
        }
        if moved {
            self.tell(state);
        }
    }

    /// Encodes the answer that is first, on a thread of the Opus pool.
    fn encode(self: &Arc<Self>) {
        let mut state = self.lock();
        let connection = state.connection;
        let Some(Out::Frame { .. }) = state.out.front() else {
            state.writing = false;
            self.advance(&mut state);
            return;
        };
        let Some(Out::Frame {
            number,
            pcm,
            timing,
        }) = state.out.pop_front()
        else {
            return;
        };
        state.out_frames -= 1;
        let writer = state.writer.take();
        drop(state);
        let started = Instant::now();
        let result = writer
            .map_or_else(|| OpusWriter::new(self.hub.opus_complexity), Ok)
            .and_then(|mut writer| Ok((writer.write(&pcm)?, writer)));
        let seconds = started.elapsed().as_secs_f64();
        self.hub.stats().stage("opus_encode", seconds);

        let mut state = self.lock();
        state.writing = false;
        if state.connection == connection {
            match result {
                Ok((bytes, writer)) => {
                    state.writer = Some(writer);
                    let event = Event::Pages {
                        frame: number,
                        bytes,
                    };
                    state.ready.push_back((event, Some(timing)));
                    self.tell(&state);
                }
                Err(error) => self.close_with(&mut state, EndReason::Error, error.to_string()),
            }
        }
        self.advance(&mut state);
    }

    /// What is ready for the caller.
    fn fetch(self: &Arc<Self>, state: &mut State) -> Vec<Event> {
        if self.options.transport == Transport::Pcm {
            while let Some(out) = state.out.pop_front() {
                match out {
                    Out::Event(event) => state.ready.push_back((event, None)),
                    Out::Frame {
                        number,
                        pcm,
                        timing,
                    } => {
                        state.out_frames -= 1;
                        let event = Event::Audio { frame: number, pcm };
                        state.ready.push_back((event, Some(timing)));
                    }
                }
            }
        }
        let ready = std::mem::take(&mut state.ready);
        if ready.is_empty() {
            return Vec::new();
        }
        let now = self.hub.clock.now();
        let mut took_audio = false;
        {
            let mut stats = self.hub.stats();
            for (arrived, step) in ready.iter().filter_map(|(_, timing)| *timing) {
                took_audio = true;
                if self.options.pace == Pace::RealTime {
                    stats.latency.record(now - arrived);
                    stats.overhead.record((now - arrived - step).max(0.0));
                }
            }
        }
        if took_audio {
            state.dropping_since = None;
            if self.options.pace == Pace::None {
                self.hub.ring();
            }
        }
        self.advance(state);
        ready.into_iter().map(|(event, _)| event).collect()
    }

    /// Asks the engine to end this session.
    pub fn close_with(&self, state: &mut State, reason: EndReason, message: String) {
        if state.closing.is_none() && state.phase != Phase::Ended {
            state.closing = Some((reason, message));
            self.hub.ring();
        }
    }

    /// The session is over: nothing more is taken in or made.
    pub fn end(self: &Arc<Self>, state: &mut State, reason: EndReason, message: String) {
        if state.phase == Phase::Ended {
            return;
        }
        state.phase = Phase::Ended;
        state.frames.clear();
        state.raw.clear();
        state.raw_bytes = 0;
        self.post(state, Event::End { reason, message });
        self.tell(state);
    }
}

/// A caller's hold on a session. The session ends when this is dropped.
pub struct Session(pub(super) Arc<Shared>);

impl Session {
    /// Its number, for logs and lists.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Takes samples: 24 kHz mono, finite, any number. Samples from before the slot are lost.
    ///
    /// # Errors
    /// [`Error::Sample`]; [`Error::OptionValue`] for a session whose transport is Opus;
    /// [`Error::SessionEnded`]. Nothing has changed then.
    pub fn send_pcm(&self, pcm: &[f32]) -> Result<()> {
        if self.0.options.transport != Transport::Pcm {
            return Err(Error::OptionValue {
                name: "transport",
                got: "opus".into(),
                allowed: "send_bytes, or a session with transport pcm".into(),
            });
        }
        samples::check("pcm", 0, pcm)?;
        let now = self.0.hub.clock.now();
        let mut state = self.open_state()?;
        if Shared::hears(&state) {
            self.0.accept(&mut state, pcm, now);
        }
        Ok(())
    }

    /// Takes bytes of an Ogg/Opus stream, cut anywhere. Never fails for what they hold.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for a session whose transport is PCM; [`Error::SessionEnded`].
    pub fn send_bytes(&self, bytes: Vec<u8>) -> Result<()> {
        if self.0.options.transport != Transport::Opus {
            return Err(Error::OptionValue {
                name: "transport",
                got: "pcm".into(),
                allowed: "send_pcm, or a session with transport opus".into(),
            });
        }
        let now = self.0.hub.clock.now();
        let mut state = self.open_state()?;
        if !Shared::hears(&state) || bytes.is_empty() {
            return Ok(());
        }
        state.raw_bytes += bytes.len();
        state.raw.push_back((bytes, now));
        while state.raw_bytes > RAW_BYTES && state.raw.len() > 1 {
            if let Some((old, _)) = state.raw.pop_front() {
                state.raw_bytes -= old.len();
                state.bad_messages += 1;
            }
        }
        if !std::mem::replace(&mut state.reading, true) {
            let this = self.0.clone();
            self.0.hub.opus(move || this.read_raw());
        }
        Ok(())
    }

    /// Whether a caller that is not paced should go on sending.
    pub fn has_room(&self) -> bool {
        let state = self.0.lock();
        !matches!(state.phase, Phase::Active(_))
            || (state.frames.len() < ROOM && state.raw.len() < ROOM)
    }

    /// Messages so far that held nothing that is known.
    pub fn bad_messages(&self) -> u64 {
        self.0.lock().bad_messages
    }

    /// Input is over: what is left is answered, then the session ends (`finished`).
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.finished = true;
        self.0.hub.ring();
    }

    /// Stops (or goes on) listening; the conversation stands still meanwhile, the time limit
    /// does not.
    pub fn pause(&self, paused: bool) {
        let mut state = self.0.lock();
        let now = self.0.hub.clock.now();
        if state.paused != paused && state.phase != Phase::Ended {
            state.paused = paused;
            state.heard = now;
            // In a call, what waits would be stale afterwards; of a file nothing is lost.
            if paused && self.0.options.pace == Pace::RealTime {
                self.0.forget_input(&mut state);
            }
            state.pacer = Pacer::new(self.0.options.pace, now);
            let name = if paused { "paused" } else { "active" };
            self.0.post(&mut state, Event::State { name, position: 0 });
        }
    }

    /// The connection is lost: the slot is kept for so many seconds, answers are thrown away.
    /// False if there is no slot to keep.
    pub fn hold(&self, seconds: f64) -> bool {
        let mut state = self.0.lock();
        if !matches!(state.phase, Phase::Active(_)) || state.closing.is_some() {
            return false;
        }
        state.held_until = Some(self.0.hub.clock.now() + seconds);
        Self::disconnect(&self.0, &mut state);
        self.0.hub.ring();
        true
    }

    fn disconnect(shared: &Shared, state: &mut State) {
        state.connection += 1;
        shared.forget_input(state);
        state.raw.clear();
        state.raw_bytes = 0;
        state.reader = None;
        state.writer = None;
        // What is said meanwhile is lost with the connection, an end is not.
        state
            .out
            .retain(|o| matches!(o, Out::Event(Event::End { .. })));
        state.out_frames = 0;
        state.ready.retain(|(e, _)| matches!(e, Event::End { .. }));
        state.dropping_since = None;
    }

    /// A new connection takes a held session up again; false if it is not held any more.
    pub fn take_up(&self, notifier: Option<Arc<Notifier>>) -> bool {
        let mut state = self.0.lock();
        let held = matches!(state.phase, Phase::Active(_)) && state.held_until.take().is_some();
        if held && state.closing.is_none() {
            let now = self.0.hub.clock.now();
            Self::disconnect(&self.0, &mut state);
            state.notifier = notifier;
            state.heard = now;
            state.pacer = Pacer::new(self.0.options.pace, now);
            let event = Event::State {
                name: "active",
                position: 0,
            };
            self.0.post(&mut state, event);
        }
        held && state.closing.is_none()
    }

    /// Ends the session.
    pub fn close(&self, reason: EndReason, message: &str) {
        let mut state = self.0.lock();
        self.0.close_with(&mut state, reason, message.into());
    }

    /// Whether the end has been reached (there may still be events to fetch).
    pub fn ended(&self) -> bool {
        self.0.lock().phase == Phase::Ended
    }

    /// What has happened since the last call; does not wait.
    pub fn events(&self) -> Vec<Event> {
        let mut state = self.0.lock();
        self.0.fetch(&mut state)
    }

    /// Waits up to `timeout` until [`Self::events`] has something, and fetches nothing; false if
    /// there is nothing.
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            let samples = self.0.options.transport == Transport::Pcm && !state.out.is_empty();
            let left = until.saturating_duration_since(Instant::now());
            if samples || !state.ready.is_empty() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            let woken = self.0.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits up to `timeout` until there is room for input; false if there is none.
    pub fn wait_room(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        loop {
            if self.has_room() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let state = self.0.lock();
            // Short naps: room is told of like everything else, but may come before the wait.
            let nap = left.min(Duration::from_millis(20));
            drop(self.0.changed.wait_timeout(state, nap));
        }
    }

    /// Whether this is still the process of the engine; see [`super::Engine::same_process`].
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn same_process(&self) -> Result<()> {
        self.0.hub.same_process()
    }

    /// Figures of this session.
    pub fn info(&self) -> SessionInfo {
        info(&self.0)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        if state.phase == Phase::Ended {
            return Err(Error::SessionEnded);
        }
        Ok(state)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.same_process().is_ok() {
            self.close(EndReason::Client, "");
        }
    }
}

/// Figures of a session.
pub(super) fn info(shared: &Shared) -> SessionInfo {
    let state = shared.lock();
    let now = shared.hub.clock.now();
    let (slot, position) = match state.phase {
        Phase::Active(slot) => (Some(slot), 0),
        Phase::Queued(position) => (None, position),
        Phase::Ended => (None, 0),
    };
    let name = match state.phase {
        Phase::Queued(_) => "queued",
        Phase::Ended => "ended",
        Phase::Active(_) if state.held_until.is_some() => "held",
        Phase::Active(_) if state.paused => "paused",
        Phase::Active(_) => "active",
    };
    SessionInfo {
        id: shared.id,
        state: name,
        slot,
        position,
        seconds: slot.map_or(0.0, |_| now - state.started),
        frames_in: state.frames_in,
        frames_out: state.frames_out,
        backlog: state.frames.len(),
        dropped_input: state.dropped_input,
        dropped_output: state.dropped_output,
        seed: shared.options.start.seed,
    }
}

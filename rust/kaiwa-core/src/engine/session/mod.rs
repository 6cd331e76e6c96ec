//! One session: its handle, its state, and the queues of its input and output.
//!
//! Lock order: a session's state is locked alone or before the engine's counters, never the other
//! way round, and never two sessions at once.

mod event;
mod handle;
mod info;
mod input;
mod input_queue;
mod options;
mod output;
mod output_queue;
mod output_watch;
mod state;

pub use self::event::Event;
pub use self::handle::Session;
pub use self::info::SessionInfo;
pub use self::options::{SessionOptions, Transport};
pub(super) use self::output_watch::Suspicion;
pub(super) use self::state::{Phase, SessionInner, State};

//! Where the time of a step goes.

use std::time::Instant;

pub(super) const EMBED: &str = "embed";
pub(super) const ATTENTION_IN: &str = "attention_in";
pub(super) const ATTENTION: &str = "attention";
pub(super) const ATTENTION_OUT: &str = "attention_out";
pub(super) const MLP_IN: &str = "mlp_in";
pub(super) const MLP_OUT: &str = "mlp_out";
pub(super) const TEXT_HEAD: &str = "text_head";
pub(super) const DEPTH: &str = "depth";

const NAMES: [&str; 8] = [
    EMBED,
    ATTENTION_IN,
    ATTENTION,
    ATTENTION_OUT,
    MLP_IN,
    MLP_OUT,
    TEXT_HEAD,
    DEPTH,
];

/// Seconds per stage since the last clearing.
pub(super) struct Stages {
    seconds: [f64; NAMES.len()],
    last: Instant,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            seconds: [0.0; NAMES.len()],
            last: Instant::now(),
        }
    }
}

impl Stages {
    /// The clock starts here.
    pub(super) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// What passed since the last call belongs to `stage`.
    pub(super) fn end(&mut self, stage: &str) {
        let now = Instant::now();
        if let Some(at) = NAMES.iter().position(|n| *n == stage) {
            self.seconds[at] += (now - self.last).as_secs_f64();
        }
        self.last = now;
    }

    pub(super) fn get(&self) -> Vec<(&'static str, f64)> {
        NAMES.into_iter().zip(self.seconds).collect()
    }

    pub(super) fn clear(&mut self) {
        self.seconds = [0.0; NAMES.len()];
    }
}

//! The delay pattern: which token of which frame goes in and comes out at a step
//! (docs/spec/moshi.md 2.4, 2.6). Plain integer bookkeeping for one slot.

/// The last few columns of a slot's streams.
#[derive(Debug, Clone)]
pub(crate) struct TokenCache {
    /// Delay of each stream, text first.
    delays: Vec<usize>,
    /// Streams whose tokens the model makes: text and its own codebooks.
    made: usize,
    /// First token of text, and of every audio stream.
    initial: (i32, i32),
    max_delay: usize,
    /// `[streams, width]`, a ring of columns.
    columns: Vec<i32>,
    width: usize,
    step: u64,
}

/// What is not there yet.
pub(crate) const NOTHING: i32 = -2;

impl TokenCache {
    /// `delays` has an entry per stream; the first `made` streams are the model's own.
    pub(crate) fn new(delays: &[usize], made: usize, initial: (i32, i32)) -> Self {
        let max_delay = delays.iter().copied().max().unwrap_or(0);
        let width = max_delay + 2;
        Self {
            delays: delays.to_vec(),
            made,
            initial,
            max_delay,
            columns: vec![NOTHING; width * delays.len()],
            width,
            step: 0,
        }
    }

    /// Steps since the start.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Back to the beginning.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
        self.columns.fill(NOTHING);
    }

    fn at(&self, stream: usize, column: u64) -> usize {
        stream * self.width + (column % self.width as u64) as usize
    }

    /// Takes the user's codes of this step and writes the model's input, text first, to `out`.
    pub(crate) fn input(&mut self, user: &[i32], out: &mut [i32]) {
        for (stream, code) in (self.made..self.delays.len()).zip(user) {
            let at = self.at(stream, self.step + self.delays[stream] as u64);
            self.columns[at] = *code;
        }
        for (stream, out) in out.iter_mut().enumerate().take(self.delays.len()) {
            *out = if self.step <= self.delays[stream] as u64 {
                match stream {
                    0 => self.initial.0,
                    _ => self.initial.1,
                }
            } else {
                self.columns[self.at(stream, self.step)]
            };
        }
    }

    /// Takes the tokens made at this step, text first, and ends it. True if a whole frame is
    /// there: it is then written to `out`, text first.
    pub(crate) fn output(&mut self, made: &[i32], out: &mut [i32]) -> bool {
        self.step += 1;
        for (stream, token) in made.iter().enumerate().take(self.made) {
            let at = self.at(stream, self.step);
            self.columns[at] = *token;
        }
        let max = self.max_delay as u64;
        if self.step <= max {
            return false;
        }
        for (stream, out) in out.iter_mut().enumerate().take(self.made) {
            let column = self.step - max + self.delays[stream] as u64;
            *out = self.columns[self.at(stream, column)];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked table of the specification, with tokens named by stream and step.
    #[test]
    fn follows_the_worked_table() {
        let delays = [0, 0, 1, 0, 1];
        let mut cache = TokenCache::new(&delays, 3, (900, 800));
        let (t, f0, f1) = (|s| 100 + s, |s| 200 + s, |s| 300 + s);
        let user = |c: i32| [400 + c, 500 + c];
        let mut input = [0; 5];
        let mut frame = [0; 3];
        for s in 0..10 {
            cache.input(&user(s), &mut input);
            let want = match s {
                0 => [900, 800, 800, 800, 800],
                1 => [t(0), f0(0), 800, 401, 800],
                _ => [t(s - 1), f0(s - 1), f1(s - 1), 400 + s, 500 + s - 1],
            };
            assert_eq!(input, want, "step {s}");
            // Codebook 1 sampled at step s belongs to frame s - 1.
            let ready = cache.output(&[t(s), f0(s), f1(s)], &mut frame);
            assert_eq!(ready, s >= 1);
            if ready {
                assert_eq!(frame, [t(s - 1), f0(s - 1), f1(s)], "step {s}");
            }
        }
        cache.reset();
        cache.input(&user(0), &mut input);
        assert_eq!(input, [900, 800, 800, 800, 800]);
    }

    #[test]
    fn without_delays_every_call_gives_a_frame() {
        let mut cache = TokenCache::new(&[0, 0], 1, (9, 8));
        let (mut input, mut frame) = ([0; 2], [0; 1]);
        for s in 0..4 {
            cache.input(&[50 + s], &mut input);
            assert_eq!(input, if s == 0 { [9, 8] } else { [s - 1, 50 + s] });
            assert!(cache.output(&[s], &mut frame));
            assert_eq!(frame, [s]);
        }
    }
}

//! Notices output that is wrong though every step succeeds: silence where words come, and words
//! that go round in circles.

use crate::pipeline::FRAME_SIZE;

/// A frame below −60 dBFS is silent: its mean square, where the loudest sine has 0.5.
const SILENT_POWER: f32 = 0.5e-6;
/// Frames without a break for which a call has to be silent (10 s), and words in them: a model
/// that listens is silent too, and says nothing meanwhile.
const SILENT_FRAMES: u32 = 125;
const SILENT_WORDS: u32 = 10;
/// The longest phrase that is recognised when it comes again, in tokens.
const LONGEST_PHRASE: usize = 16;
/// How often a phrase has to come in a row, and the tokens that all of it has to have: somebody may
/// well be asked to count, or to say something three times.
const REPEATS: usize = 4;
const LOOP_TOKENS: usize = 24;

/// What is wrong with the output of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Suspicion {
    /// Words come, and no sound.
    Silent,
    /// The same words come again and again.
    Loop,
}

/// One call's output, as far as it takes to notice that.
#[derive(Debug, Default)]
pub(in crate::engine) struct OutputWatch {
    silent_frames: u32,
    silent_words: u32,
    silent: bool,
    /// The last words, the newest at `newest`.
    words: [Option<i32>; LONGEST_PHRASE],
    newest: usize,
    /// For a phrase of `n + 1` tokens: for how many tokens each has been the one a phrase before.
    same: [usize; LONGEST_PHRASE],
    looping: bool,
}

impl OutputWatch {
    /// Takes an answer: [`FRAME_SIZE`] samples, and the token of a word, if it has them. Gives what
    /// is suspicious since this answer and was not before.
    pub fn answer(
        &mut self,
        audio: Option<&[f32]>,
        word: Option<i32>,
    ) -> impl Iterator<Item = Suspicion> + use<> {
        let silent = audio.is_some_and(|pcm| self.hear(pcm, word.is_some()));
        let looping = word.is_some_and(|word| self.read(word));
        let found = [
            silent.then_some(Suspicion::Silent),
            looping.then_some(Suspicion::Loop),
        ];
        found.into_iter().flatten()
    }

    /// Whether the call has just become a silent one.
    fn hear(&mut self, pcm: &[f32], word: bool) -> bool {
        if !is_silent(pcm) {
            (self.silent_frames, self.silent_words, self.silent) = (0, 0, false);
            return false;
        }
        self.silent_frames = self.silent_frames.saturating_add(1);
        self.silent_words = self.silent_words.saturating_add(word.into());
        let now = self.silent_frames >= SILENT_FRAMES && self.silent_words >= SILENT_WORDS;
        let new = now && !self.silent;
        self.silent = now;
        new
    }

    /// Whether the words have just begun to go round in circles.
    fn read(&mut self, word: i32) -> bool {
        let mut now = false;
        for phrase in 1..=LONGEST_PHRASE {
            let before = self.words[(self.newest + LONGEST_PHRASE + 1 - phrase) % LONGEST_PHRASE];
            let same = &mut self.same[phrase - 1];
            *same = if before == Some(word) { *same + 1 } else { 0 };
            let wanted = (REPEATS * phrase).max(LOOP_TOKENS) - phrase;
            now |= *same >= wanted;
        }
        self.newest = (self.newest + 1) % LONGEST_PHRASE;
        self.words[self.newest] = Some(word);
        let new = now && !self.looping;
        self.looping = now;
        new
    }
}

/// Whether samples are below −60 dBFS. Of a loud frame it looks at a few samples only.
fn is_silent(pcm: &[f32]) -> bool {
    let most = SILENT_POWER * FRAME_SIZE as f32;
    let mut power = 0.0;
    for piece in pcm.chunks(64) {
        power += piece.iter().map(|sample| sample * sample).sum::<f32>();
        if power > most {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(decibels: f32) -> Vec<f32> {
        let peak = 10f32.powf(decibels / 20.0);
        let sample = |n| (n as f32 * 0.1).sin() * peak;
        (0..FRAME_SIZE).map(sample).collect()
    }

    /// What is found in answers, with the numbers of the answers.
    fn found(
        answers: impl IntoIterator<Item = (Vec<f32>, Option<i32>)>,
    ) -> Vec<(usize, Suspicion)> {
        let mut watch = OutputWatch::default();
        let answers = answers.into_iter().enumerate();
        answers
            .flat_map(|(n, (pcm, word))| watch.answer(Some(&pcm), word).map(move |what| (n, what)))
            .collect()
    }

    /// Words that never repeat.
    fn fresh(n: usize) -> Option<i32> {
        Some(1000 + n as i32)
    }

    #[test]
    fn silence_is_below_sixty_decibels() {
        assert!(is_silent(&sine(-60.5)));
        assert!(!is_silent(&sine(-59.5)));
        assert!(is_silent(&[0.0; FRAME_SIZE]));
        // A single click of full scale is none.
        let mut click = vec![0.0; FRAME_SIZE];
        click[FRAME_SIZE - 1] = 1.0;
        assert!(!is_silent(&click));
    }

    #[test]
    fn words_without_sound_are_noticed_once() {
        let mute = (0..400).map(|n| (sine(-70.0), fresh(n).filter(|_| n % 5 == 0)));
        assert_eq!(found(mute), [(124, Suspicion::Silent)]);
        // Again after sound came.
        let again = (0..600).map(|n| (sine(if n == 200 { -20.0 } else { -70.0 }), fresh(n)));
        assert_eq!(
            found(again),
            [(124, Suspicion::Silent), (325, Suspicion::Silent)]
        );
    }

    #[test]
    fn who_listens_in_silence_and_who_speaks_is_not_suspicious() {
        let listening = (0..2000).map(|n| (sine(-90.0), fresh(n).filter(|_| n < 9)));
        assert_eq!(found(listening), []);
        let speaking =
            (0..2000).map(|n| (sine(if n % 124 == 0 { -50.0 } else { -90.0 }), fresh(n)));
        assert_eq!(found(speaking), []);
    }

    #[test]
    fn phrases_of_any_length_that_repeat_are_noticed_once() {
        for length in 1..=LONGEST_PHRASE {
            let spoken = (0..10)
                .map(|n| 5000 + n)
                .chain((0..200).map(|n| (n % length) as i32));
            let all = found(spoken.map(|word| (sine(-20.0), Some(word))));
            let tokens = (REPEATS * length).max(LOOP_TOKENS);
            assert_eq!(all, [(10 + tokens - 1, Suspicion::Loop)], "{length}");
        }
    }

    #[test]
    fn what_is_said_a_few_times_is_no_loop() {
        // "no no no", a chorus of three, and numbers.
        let chorus: Vec<i32> = (0..12).cycle().take(36).collect();
        let words = [vec![1; 8], chorus, (100..140).collect(), vec![2; 20]].concat();
        assert_eq!(found(words.into_iter().map(|w| (sine(-20.0), Some(w)))), []);
        // Zero is a word as any other, and nothing was said before the first one.
        let zeros = (0..LOOP_TOKENS - 1).map(|_| (sine(-20.0), Some(0)));
        assert_eq!(found(zeros), []);
    }
}

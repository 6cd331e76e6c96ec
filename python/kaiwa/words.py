"""From the text tokens of a transcription to words with times (docs/spec/moshi.md 9.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from kaiwa.text import Tokenizer

#: Steps of the model in a second.
STEPS_PER_SECOND = 12.5
#: Text tokens that end the pieces of a word: the first also says that the next word follows at
#: once, and so when the last one stopped.
NEXT_WORD, PADDING = 0, 3
#: Pieces after which a word is closed that the model does not close: 40 s of a model that says
#: nothing sensible.
MOST_PIECES = 500


class Word(NamedTuple):
    """What was said, and when."""

    #: A word; several where the model leaves no gap between them.
    text: str
    #: Seconds from the beginning of the audio at which it begins ...
    start: float
    #: ... and at which it ends; ``None`` where the model does not tell.
    stop: float | None


@dataclass(frozen=True)
class WordEvent:
    """A word was recognised."""

    type: ClassVar[str] = "word"
    text: str
    #: Seconds from the beginning of the audio.
    start: float


@dataclass(frozen=True)
class WordEndEvent:
    """The word before has ended."""

    type: ClassVar[str] = "word_end"
    #: Seconds from the beginning of the audio.
    stop: float


class Words:
    """Puts the words of one transcription together, token by token.

    Args:
        tokenizer: That of the model.
        delay_seconds: From a sound to the text of it.
        steps: That the model has made before the first token that is pushed: 1 where the first
            frame of audio is given to it twice.
    """

    def __init__(self, tokenizer: Tokenizer, delay_seconds: float, steps: int = 0) -> None:
        self._tokenizer = tokenizer
        self._text = tokenizer.stream()
        self._delay = delay_steps(delay_seconds)
        self._steps = steps
        self._pieces: list[str] = []
        #: Tokens of the word that is open; pieces alone may be empty.
        self._open = False
        self._start = 0.0
        self._unended = False

    def push(self, token: int) -> list[WordEvent | WordEndEvent]:
        """What a step's token completes.

        Raises:
            InputError: There is no such token.
        """
        self._steps += 1
        if self._steps < self._delay:
            return []
        if token not in (NEXT_WORD, PADDING):
            self._pieces.append(self._text.push(token))
            self._open = True
            if len(self._pieces) < MOST_PIECES:
                return []
        events: list[WordEvent | WordEndEvent] = []
        if self._open:
            events.append(WordEvent("".join(self._pieces).strip(), self._start))
            self._pieces, self._open, self._unended = [], False, True
            self._text = self._tokenizer.stream()
        if token == NEXT_WORD:
            stop = round((self._steps - self._delay) / STEPS_PER_SECOND, 3)
            if self._unended:
                events.append(WordEndEvent(stop))
                self._unended = False
            self._start = stop
        return events


def delay_steps(seconds: float) -> int:
    """Whole steps of a delay."""
    return int(STEPS_PER_SECOND * seconds)


class WordList:
    """The words of a transcription so far, from its events. Times can be moved, for audio that was
    put before the recording.

    Args:
        earlier: Seconds to take from every time; nothing becomes negative.
    """

    def __init__(self, earlier: float = 0.0) -> None:
        self.words: list[Word] = []
        self._earlier = earlier

    def add(self, event: WordEvent | WordEndEvent) -> Word | None:
        """Takes the next event; gives the word that begins with it, if one does."""
        if isinstance(event, WordEvent):
            word = Word(event.text, self._moved(event.start), None)
            self.words.append(word)
            return word
        if self.words:
            self.words[-1] = self.words[-1]._replace(stop=self._moved(event.stop))
        return None

    def _moved(self, seconds: float) -> float:
        return max(0.0, round(seconds - self._earlier, 3))

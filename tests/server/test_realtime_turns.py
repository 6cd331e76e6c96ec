"""Turns cut out of a model that always answers, and what a client is told of its caller."""

from __future__ import annotations

import numpy as np
import pytest
from tests.demo.call import ask
from tests.demo.conftest import DATA
from tests.server.wire import FRAME, tone
from training.conversations import Callers

from kaiwa.server.protocols.realtime.callers import CallerTurns
from kaiwa.server.protocols.realtime.settings import TurnDetection
from kaiwa.server.protocols.realtime.speech import Mark, Speech
from kaiwa.server.protocols.realtime.turns import Frame, State, Turns
from training import callers

LOUD, QUIET = tone(1), np.zeros(FRAME, np.float32)


def run(turns: Turns, pattern: str, start: int = 0) -> list[str]:
    """Steps over frames: `l` is loud, `t` has text, `.` is neither. Gives for each what was said:
    `b` a turn begins, the number of frames sent, `e` it ends."""
    told = []
    for number, kind in enumerate(pattern, start):
        text = [" word"] if kind == "t" else []
        step = turns.step(Frame(number, LOUD if kind == "l" else QUIET, text))
        told.append("b" * step.begins + str(len(step.frames)) + "e" * step.ends)
    return told


def test_two_loud_frames_of_three_begin_a_turn_with_what_was_before() -> None:
    assert run(Turns(), "..l.l") == ["0", "0", "0", "0", "b3"]
    # One alone does not, nor do two that are further apart.
    assert run(Turns(), ".l..l..") == ["0"] * 7


def test_text_begins_a_turn_at_once() -> None:
    assert run(Turns(), "t") == ["b1"]
    assert run(Turns(), "...t") == ["0", "0", "0", "b3"]


def test_eight_hundred_milliseconds_of_neither_end_it() -> None:
    told = run(Turns(), "t" + "." * 9 + "l" + "." * 10 + "..ll")
    assert told[:11] == ["b1", *["1"] * 10]
    assert told[11:21] == [*["1"] * 9, "1e"]
    # What was sent with the first turn is not sent with the next one.
    assert told[21:] == ["0", "0", "0", "b3"]


def test_text_that_comes_late_belongs_to_the_turn_and_is_no_frame() -> None:
    turns = Turns()
    run(turns, "t.")
    step = turns.step(Frame(1, None, [" late"]))
    assert [frame.text for frame in step.frames] == [[" late"]]


def test_speech_without_a_pause_is_cut_after_half_a_minute_between_words() -> None:
    turns = Turns()
    told = run(turns, "t" * 380 + "l" * 20)
    assert told[379:382] == ["1", "1e", "b1"]
    assert run(Turns(), "t" * 800)[750] == "1e"


def test_what_was_cancelled_is_not_heard_until_the_model_pauses() -> None:
    turns = Turns()
    run(turns, "tl")
    turns.mute()
    told = run(turns, "lltt" + "." * 12 + "t", start=2)
    assert told == [*["0"] * 16, "b3"]
    assert turns.state is State.SPEAKING


def test_what_was_interrupted_goes_on_as_another_turn() -> None:
    turns = Turns()
    run(turns, "tl")
    turns.interrupt()
    assert run(turns, "ll", start=2) == ["0", "b2"]


# ---- the caller ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def word() -> np.ndarray:
    """Somebody says a digit."""
    scene = ask(Callers(callers.read(DATA)), "espeak:m3", [7], tail=0)
    return np.asarray(scene.audio[48_000 : int(scene.end * 24_000)])


def silence(ms: int) -> np.ndarray:
    return np.zeros(24 * ms, np.float32)


def test_speech_is_found_where_it_is(word: np.ndarray) -> None:
    lasts = len(word) // 24
    sound = np.concatenate((silence(1000), word, silence(1500), word, silence(1000)))
    for size in (240, 1000, 1920, len(sound)):
        speech = Speech()
        marks = []
        for at in range(0, len(sound), size):
            marks += speech.hear(sound[at : at + size])
        assert [mark.began for mark in marks] == [True, False, True, False]
        wanted = [1000, 1000 + lasts, 2500 + lasts, 2500 + 2 * lasts]
        assert np.abs(np.subtract([mark.at_ms for mark in marks], wanted)).max() < 250


def test_silence_and_steady_noise_below_it_are_no_speech() -> None:
    noise = np.random.default_rng(0).standard_normal(24_000 * 5).astype(np.float32)
    assert Speech().hear(silence(5000)) == []
    assert Speech().hear(1e-4 * noise) == []


def test_the_pause_that_ends_speech_can_be_set(word: np.ndarray) -> None:
    sound = np.concatenate((word, silence(400), word, silence(1500)))
    assert len(Speech(silence_ms=200).hear(sound)) == 4
    assert len(Speech(silence_ms=1000).hear(sound)) == 2


class Heard(CallerTurns):
    """With marks in place of audio."""

    def __init__(self, *marks: Mark, interrupts: bool = True, now_ms: int = 10_000) -> None:
        super().__init__()
        self.configure(TurnDetection(interrupts=interrupts))
        self._note(list(marks))
        self._speech._slots = now_ms // 10
        self.interrupted = 0

    def told(self, responding: bool) -> list[tuple[bool, int]]:
        def interrupt() -> None:
            self.interrupted += 1

        marks = self.due(responding=responding, interrupt=interrupt)
        return [(mark.began, mark.at_ms) for mark in marks]


BEGAN, ENDED = Mark(True, 1000), Mark(False, 1200)


def test_speech_is_told_with_its_prefix() -> None:
    assert Heard(BEGAN, ENDED).told(False) == [(True, 700), (False, 1200)]
    assert Heard(Mark(True, 100)).told(False) == [(True, 0)]


def test_a_word_of_agreement_does_not_interrupt() -> None:
    heard = Heard(BEGAN, ENDED)
    assert heard.told(True) == []
    assert heard.interrupted == 0
    assert heard.told(False) == []


def test_speech_that_lasts_ends_the_response_first() -> None:
    heard = Heard(BEGAN, now_ms=1290)
    assert (heard.told(True), heard.interrupted) == ([], 0)
    heard = Heard(BEGAN, now_ms=1300)
    assert (heard.told(True), heard.interrupted) == ([(True, 700)], 1)
    long = Heard(BEGAN, Mark(False, 1500))
    assert (long.told(True), long.interrupted) == ([(True, 700), (False, 1500)], 1)


def test_without_interruption_speech_is_told_after_the_response() -> None:
    heard = Heard(BEGAN, Mark(False, 1900), interrupts=False)
    assert heard.told(True) == []
    assert heard.told(False) == [(True, 700), (False, 1900)]
    assert heard.interrupted == 0


def test_what_is_kept_while_the_model_speaks_is_bounded() -> None:
    heard = Heard(interrupts=False)
    for number in range(1000):
        heard._note([Mark(True, number * 100), Mark(False, number * 100 + 50)])
        assert heard.told(True) == []
    assert len(heard.told(False)) <= 64


def test_nothing_is_told_where_nobody_wants_to_know() -> None:
    heard = Heard(BEGAN)
    heard.configure(None)
    assert heard.told(False) == []

"""The caller's turns: when the client is told that its caller speaks
(docs/spec/protocols.md 3.8).

Clients take it for an interruption, and stop playing what the model says. So while a response is
open they are told only if they want to be, only of speech that lasts, and not before the response
has ended.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.protocols.realtime.settings import TurnDetection
from kaiwa.server.protocols.realtime.speech import Mark, Speech

#: Speech that ends a response has to last so long: shorter is agreement.
INTERRUPTION_MS = 300
#: Frames without audio of the client after which silence counts as heard, as the model hears it.
_LATE_FRAMES = 4
#: Beginnings and ends that are kept while a response is open.
_MOST_MARKS = 64


class CallerTurns:
    """Decides which beginnings and ends of speech the client is told of, and when."""

    def __init__(self) -> None:
        self._speech = Speech()
        self._detection: TurnDetection | None = None
        self._marks: list[Mark] = []
        self._late = 0

    def configure(self, detection: TurnDetection | None) -> None:
        """From now on; None tells nothing."""
        self._detection = detection
        if detection is None:
            self._marks.clear()
        else:
            self._speech.configure(detection.threshold, detection.silence_ms)

    def clear(self) -> None:
        """What was heard and not told is forgotten."""
        self._marks.clear()

    def hear(self, pcm: NDArray[np.float32]) -> None:
        """Audio of the caller."""
        self._late = 0
        self._note(self._speech.hear(pcm))

    def frame(self) -> None:
        """The model has stepped a frame; it heard silence if nothing came for long."""
        self._late += 1
        if self._late > _LATE_FRAMES:
            self._note(self._speech.hear(np.zeros(1920, np.float32)))

    def _note(self, marks: list[Mark]) -> None:
        if self._detection is not None:
            self._marks.extend(marks)
            if len(self._marks) > _MOST_MARKS:
                # A beginning and its end.
                del self._marks[:2]

    def due(self, *, responding: bool, interrupt: Callable[[], None]) -> list[Mark]:
        """What the client is to be told now, in order.

        Args:
            responding: a response is open.
            interrupt: ends that response; called before a beginning that interrupts it.
        """
        told = []
        while self._marks and self._detection is not None:
            mark = self._marks[0]
            if mark.began and responding:
                end = self._marks[1].at_ms if len(self._marks) > 1 else None
                if not self._detection.interrupts:
                    break
                lasted = (self._speech.now_ms if end is None else end) - mark.at_ms
                if lasted < INTERRUPTION_MS:
                    if end is None:
                        break
                    del self._marks[:2]
                    continue
                interrupt()
                responding = False
            if mark.began:
                mark = Mark(True, max(0, mark.at_ms - self._detection.prefix_ms))
            told.append(mark)
            del self._marks[0]
        return told

"""When frames went out and answers came in, and what follows from it. No clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from kaiwa.client.messages import FRAME, FRAME_SECONDS

#: Seconds of audio that a listener's player holds before it starts.
PLAYBACK_BUFFER = 0.1

#: Frames of the answer that may have been left out since the last that came, or been answered
#: without having been sent: ten minutes. More than that is no true number of a frame.
_MOST_LEFT_OUT = 7500
#: Seconds below which two times are the same.
_ROUNDING = 1e-6


@dataclass
class Timeline:
    """Times in seconds, of one clock.

    Attributes:
        sent: when the last byte of each input frame was handed to the socket.
        answered: when each answer frame was complete; None for one that did not come.
        continuous: a frame of the answer comes for every one of the input. Else silence is left out
            between turns, and nobody can tell whether what did not come after the last one was
            silent.
    """

    sent: list[float] = field(default_factory=list)
    answered: list[float | None] = field(default_factory=list)
    continuous: bool = True
    #: Samples of the answer, those that were left out included.
    _samples: int = 0
    #: Frames that were silence and therefore left out.
    _silent: int = 0

    def receive(self, samples: int, at: float) -> int:
        """Counts samples of the answer; gives the frames that are complete with them."""
        self._samples += samples
        complete = self._samples // FRAME - len(self.answered)
        self.answered.extend([at] * complete)
        return complete

    def skip_to(self, frame: int, *, silent: bool) -> int:
        """What comes next begins with a frame of this number; gives how many frames before it did
        not come.

        Args:
            frame: counted from the beginning of the answer.
            silent: they were silence between turns, and not lost.
        """
        left_out = frame - len(self.answered)
        if not 0 < left_out <= _MOST_LEFT_OUT:
            return 0
        self.answered.extend([None] * left_out)
        self._samples += left_out * FRAME
        if silent:
            self._silent += left_out
        return left_out

    @property
    def came(self) -> int:
        """Frames of the answer that came."""
        return len(self.answered) - self.answered.count(None)

    @property
    def samples(self) -> int:
        """Samples of the answer so far, those that were left out included."""
        return self._samples

    def latencies(self) -> list[float]:
        """Of each answer frame: seconds since the input frame of the same number was sent."""
        pairs = zip(self.sent, self.answered, strict=False)
        return [came - sent for sent, came in pairs if came is not None]

    def missing(self, held_back: int = 0) -> int:
        """Frames that were sent but not answered, without those that the model holds back."""
        return self.missing_of(len(self.sent) - held_back)

    def missing_of(self, count: int) -> int:
        """Frames without an answer among so many, the first ones."""
        behind = max(0, count - len(self.answered)) if self.continuous else 0
        return behind + self.answered.count(None) - self._silent


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least the share `q` of the values do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True)
class Playback:
    """How a player fared: times it ran empty, and seconds it was silent for that."""

    underruns: int
    stalled: float


def playback(answered: Sequence[float | None], buffer: float = PLAYBACK_BUFFER) -> Playback:
    """A player that starts `buffer` seconds after the first frame, plays a frame each 80 ms, and
    goes on as soon as a frame is there again after it ran empty. After frames that did not come it
    starts anew."""
    underruns, stalled = 0, 0.0
    due: float | None = None
    for at in answered:
        if at is None:
            due = None
            continue
        if due is None:
            due = at + buffer
        if at - due > _ROUNDING:
            underruns += 1
            stalled += at - due
            due = at
        due += FRAME_SECONDS
    return Playback(underruns, stalled)
